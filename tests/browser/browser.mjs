// What both scripts need: Debian's chromium, and a host to look at.
//
// The environment says where: `CHROMIUM` is the browser's path; `PUBLIC` and `INTERNAL` are the host's URLs, `TOKEN` its token.

import { chromium } from "playwright-core";

export const { PUBLIC, INTERNAL, TOKEN } = process.env;

/** As long as the Rust tests wait for anything. */
export const PATIENCE = 60_000;

/** Runs `use` with a new page of this kind. What the page complains about is an error. */
export async function withPage(options, use) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    // Containers and root have no sandbox; the only page that is opened is ours.
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
  });
  try {
    const page = await browser.newPage(options);
    page.setDefaultTimeout(PATIENCE);
    const complaints = [];
    page.on("pageerror", (error) => complaints.push(error.message));
    page.on("console", (message) => {
      // An answer that isn't a success is told there, too.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) complaints.push(message.text());
    });
    await use(page);
    if (complaints.length > 0) throw new Error(`the page complained: ${complaints.join("; ")}`);
  } finally {
    await browser.close();
  }
}

/** Asks the internal address as an operator does. */
export async function operator(method, path, document) {
  const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };
  const answer = await fetch(INTERNAL + path, { method, headers, body: document && JSON.stringify(document) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.status === 204 ? null : answer.json();
}

/** Sends requests to the public address, a few at once, until it is stopped. */
export function load(paths, clients = 4) {
  let stopped = false;
  const client = async () => {
    for (let round = 0; !stopped; round += 1) {
      const answer = await fetch(PUBLIC + paths[round % paths.length]);
      await answer.arrayBuffer();
    }
  };
  const running = Promise.all(Array.from({ length: clients }, client));
  return async () => {
    stopped = true;
    await running;
  };
}
