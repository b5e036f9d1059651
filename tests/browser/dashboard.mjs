// The dashboard in a real browser: opened, watched under load, and used. `tests/tests/dashboard.rs` starts the host, with
// the component `guest` swapped once, and says in `REMOTE` and `EVIL` what to register: the one refuses connections, the
// other answers with markup.

import { INTERNAL, PUBLIC, TOKEN, load, operator, withPage } from "./browser.mjs";

const { REMOTE, EVIL } = process.env;
const row = (page, table, text) => page.locator(`#${table} tbody tr`).filter({ hasText: text });
const shows = (page, id, test) => page.waitForFunction(
  ([id, test]) => new RegExp(test).test(document.getElementById(id).textContent), [id, test]);

function equal(left, right, what) {
  if (left !== right) throw new Error(`${what}: ${JSON.stringify(left)} is not ${JSON.stringify(right)}`);
}

async function step(what, take) {
  console.log(what);
  await take();
}

await withPage({ viewport: { width: 1280, height: 900 } }, async (page) => {
  await step("asks for the token", async () => {
    await page.goto(INTERNAL);
    await page.locator("#token").fill("wrong");
    await page.keyboard.press("Enter");
    await page.getByText("That token was not accepted.").waitFor();
    // No token has such a character, and none can be sent.
    await page.locator("#token").fill("wr€ng");
    await page.keyboard.press("Enter");
    await page.locator("#token").fill(TOKEN);
    await page.keyboard.press("Enter");
    await page.locator("#connection[data-state=live]").waitFor();
    equal(await page.evaluate(() => localStorage.length), 0, "what outlives the tab");
  });

  await step("live numbers move under load", async () => {
    const stop = load(["/"]);
    await shows(page, "per-second", "^[1-9]");
    await shows(page, "p99", "ms$");
    await page.waitForFunction(() => document.querySelector("#charts path").getAttribute("d").includes("L"));
    await stop();
    await shows(page, "per-second", "^0$");
    await shows(page, "in-flight", "^0$");
  });

  await step("an instance goes down and comes back", async () => {
    await operator("POST", "/register", { namespace: "guest", name: "far", address: REMOTE });
    await row(page, "instances", "far").getByText("● available").waitFor();
    // In turn with the other one, which answers instead.
    for (let round = 0; round < 8; round += 1) equal((await fetch(PUBLIC)).status, 200, "the answer");
    await row(page, "instances", "far").getByText("✕ unavailable").waitFor();
    equal(await row(page, "instances", "far").locator("td[data-label=Failures]").textContent(), "3", "failures");
    await row(page, "failures", "guest/far").waitFor();
    await operator("POST", "/heartbeat", { namespace: "guest", name: "far" });
    await row(page, "instances", "far").getByText("● available").waitFor();
  });

  await step("out of rotation and into it, by the keyboard", async () => {
    const take = page.getByRole("button", { name: "Take out of rotation: guest/far" });
    await take.focus();
    await page.keyboard.press("Enter");
    await row(page, "instances", "far").getByText("◌ out of rotation").waitFor();
    // The focus stays, though the row has changed.
    equal(await page.evaluate(() => document.activeElement.textContent), "Put in", "what has the focus");
    await page.keyboard.press("Enter");
    await row(page, "instances", "far").getByText("● available").waitFor();
    await operator("PUT", "/instances/guest/far", { rotation: "out" });
    await row(page, "instances", "far").getByText("◌ out of rotation").waitFor();
  });

  await step("the focus stays where it is when an earlier row goes", async () => {
    await operator("POST", "/register", { namespace: "early", name: "early", address: REMOTE });
    await row(page, "instances", "early").waitFor();
    await page.getByRole("button", { name: "Take out of rotation: guest/guest" }).focus();
    await operator("DELETE", "/register/early/early");
    await row(page, "instances", "early").waitFor({ state: "detached" });
    const focused = await page.evaluate(() => document.activeElement.getAttribute("aria-label"));
    equal(focused, "Take out of rotation: guest/guest", "what has the focus");
  });

  await step("the last one is only taken out after a question", async () => {
    await page.getByRole("button", { name: "Take out of rotation: guest/guest" }).click();
    await page.getByText("is the last available instance").waitFor();
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.locator("#instances tbody tr").filter({ has: page.getByRole("button", { name: "Take out of rotation: guest/guest" }) })
      .getByText("● available").waitFor();
  });

  await step("the list is filtered", async () => {
    await page.getByLabel("Filter").fill("far");
    await row(page, "instances", "gateway").first().waitFor({ state: "hidden" });
    equal(await row(page, "instances", "far").isVisible(), true, "the one that was asked for");
    await page.getByLabel("Filter").fill("");
    await page.getByLabel("Show").selectOption("available");
    await row(page, "instances", "far").waitFor({ state: "hidden" });
    await page.getByLabel("Show").selectOption("all");
  });

  await step("what others send stays text", async () => {
    await operator("POST", "/register", { namespace: "evil", name: "evil", address: EVIL });
    equal((await fetch(`${PUBLIC}/services/evil/x`)).status, 500, "the answer");
    const failure = row(page, "failures", "<img src=x onerror=pwned()>");
    await failure.waitFor();
    equal(await failure.locator("td[data-label=What]").textContent(), "request: proxy, <script>pwned()</script>", "who failed");
    equal(await page.locator("#failures :is(img, script)").count(), 0, "elements that came from others");
  });

  await step("a component is rolled back with a click", async () => {
    const guest = row(page, "components", "guest");
    const before = await guest.locator(".code").textContent();
    await page.getByRole("button", { name: "Roll back guest" }).click();
    await page.getByText("Roll guest back from").waitFor();
    await page.getByRole("button", { name: "Roll back", exact: true }).last().click();
    await page.getByText(/^guest: [0-9a-f]{12} is active\.$/).waitFor();
    await page.waitForFunction((before) => {
      const rows = [...document.querySelectorAll("#components tbody tr")];
      return rows.find((row) => row.cells[0].textContent === "guest").querySelector(".code").textContent !== before;
    }, before);
    await guest.locator("td[data-label=Published]").filter({ hasText: "by rollback" }).waitFor();
  });

  await step("it fits a phone", async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, "the width of the page");
  });
});

await withPage({ viewport: { width: 1280, height: 900 }, colorScheme: "dark" }, async (page) => {
  await step("a thousand instances, in the dark", async () => {
    const registered = Array.from({ length: 1000 }, (_, number) =>
      operator("POST", "/register", { namespace: "crowd", name: `crowd-${number}`, address: "http://192.0.2.1:80" }));
    await Promise.all(registered);
    await page.goto(INTERNAL);
    await page.locator("#token").fill(TOKEN);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll("#instances tbody tr").length > 1000);
    // The rows stay the same elements from one event to the next.
    await page.evaluate(() => { document.querySelector("#instances tbody tr").dataset.marked = "yes"; });
    const seen = await page.locator("#instances tbody tr td[data-label='Last sign of life']").first().textContent();
    await page.waitForFunction((seen) =>
      document.querySelector("#instances tbody tr td[data-label='Last sign of life']").textContent !== seen, seen);
    equal(await page.locator("#instances tbody tr[data-marked=yes]").count(), 1, "rows that stayed");
    const colour = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    equal(colour, "rgb(16, 21, 27)", "the colour of the page");
  });
});
await step("what it can't read is no sign of life", async () => {
  const opened = withPage({}, async (page) => {
    const headers = { "content-type": "text/event-stream" };
    await page.route("**/status/events", (route) => route.fulfill({ headers, body: 'data: {"version":"0"}\n\n' }));
    await Promise.all([page.waitForEvent("pageerror"), page.goto(INTERNAL)]);
    await page.getByText("This page can't read what the host sends; reload it.").waitFor();
  });
  const outcome = await opened.then(() => "nothing", (error) => error.message);
  if (!outcome.startsWith("the page complained: ")) throw new Error(outcome);
});
console.log("done");
