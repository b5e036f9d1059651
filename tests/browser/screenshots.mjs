// The pictures of the README, into the folder `PICTURES`.

import { INTERNAL, load, withPage } from "./browser.mjs";

const PICTURES = process.env.PICTURES;

const stop = load(["/data", "/data", "/status", "/api/get?key=greeting", "/data", "/services/echo/hello"], 3);
for (const [name, options] of [
  ["light", { viewport: { width: 1080, height: 980 }, colorScheme: "light" }],
  ["dark", { viewport: { width: 1080, height: 980 }, colorScheme: "dark" }],
  ["phone", { viewport: { width: 360, height: 780 }, colorScheme: "light", isMobile: true }],
]) {
  await withPage({ ...options, deviceScaleFactor: 1 }, async (page) => {
    await page.goto(INTERNAL);
    // A curve of a minute at least.
    await page.waitForFunction(() => document.querySelector("#charts path").getAttribute("d").split("L").length > 12, null,
      { timeout: 180_000 });
    await page.screenshot({ path: `${PICTURES}/dashboard-${name}.png` });
  });
}
await stop();
