// The dashboard: follows what is going on in the host, shows it, and has buttons for what can be done about it.

import { chart } from "./charts.js";
import { Failed, events, send, setToken } from "./stream.js";
import { ago, blank, element, rows, write } from "./tables.js";

const AGAIN = 1000;
const by = (id) => document.getElementById(id);
const path = (...parts) => parts.map((part) => `/${encodeURIComponent(part)}`).join("");
const short = (digest) => digest.slice(0, 12);
const number = (value) => (value === null ? "–" : value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 2 : 0 }));
const ms = (value) => (value === null ? "–" : `${number(value)} ms`);
const percent = (value) => (value === null ? "–" : `${number(value)} %`);
const bytes = (value) => {
  if (value === null) return "–";
  const unit = Math.min(3, Math.floor(Math.log2(Math.max(value, 1)) / 10));
  return `${number(value / 1024 ** unit)} ${["B", "KiB", "MiB", "GiB"][unit]}`;
};

let facts = null;
let version = null; // The first that was seen, of the host that this page is from.

// Figures and charts

const charts = [
  [chart("Requests per second", ["requests"], 1, number), (history) => [history.per_second]],
  [chart("Failed requests (5xx)", ["failed"], 1, percent), (history) => [errorRates(history)]],
  [chart("Duration of requests", ["p50", "p99"], 1, ms), (history) => [history.p50_ms, history.p99_ms]],
];
by("charts").append(...charts.map(([{ figure }]) => figure));

function errorRates({ per_second, errors_per_second }) {
  return per_second.map((requests, index) => (requests === 0 ? null : (100 * errors_per_second[index]) / requests));
}

function showFigures({ history, components, store, in_flight, retries }) {
  const sum = (of) => components.reduce((sum, component) => sum + component.guests[of], 0);
  const newest = (column) => column.at(-1) ?? null;
  const lastKnown = (column) => column.findLast((value) => value !== null) ?? null;
  for (const [id, text] of [
    ["per-second", number(newest(history.per_second))],
    ["error-rate", percent(newest(errorRates(history)))],
    ["p50", ms(newest(history.p50_ms))],
    ["p99", ms(newest(history.p99_ms))],
    ["in-flight", number(in_flight)],
    ["retries", number(retries)],
    ["busy", number(sum("busy"))],
    ["idle", number(sum("idle"))],
    ["waiting", number(sum("waiting"))],
    ["keys", number(store.keys)],
    ["log-bytes", bytes(store.log_bytes)],
    ["sync", ms(lastKnown(history.sync_p99_ms))],
  ]) write(by(id), text);
  for (const [{ update }, columns] of charts) update(columns(history), history.interval_ms);
}

// Components

function revisionText(revision) {
  const size = bytes(revision.size);
  const outcome = revision.outcome ? `, ${revision.outcome}` : "";
  return `${short(revision.digest)} ${revision.state}, ${ago(revision.published_ms_ago)} by ${revision.published_by}, ${size}${outcome}`;
}

/** The revision that a rollback leads to: the newest before that was not taken back because it failed. */
function previous({ revisions }) {
  const others = revisions.filter((revision) => revision.state !== "active" && !revision.outcome);
  return others.find((revision) => revision.state === "warm") ?? others[0];
}

const showComponents = rows(by("components"), (component) => component.name, (cells, { name }) => {
  const [title, route, digest, published, guests, state, action] = cells;
  const count = element("summary");
  const list = element("ul");
  const button = element("button", "", "Roll back");
  button.type = "button";
  button.setAttribute("aria-label", `Roll back ${name}`);
  button.addEventListener("click", () => rollBack(name));
  const newest = element("span", "code");
  digest.append(element("div", "", newest, element("details", "", count, list)));
  action.append(button);
  write(title, name);
  return { route, newest, count, list, published, guests, state, button };
}, (parts, component) => {
  const { guests, revisions } = component;
  write(parts.route, component.route ?? "–");
  write(parts.newest, short(component.digest));
  write(parts.count, `${revisions.length} in its history`);
  const texts = revisions.map(revisionText);
  texts.forEach((text, index) => write(parts.list.children[index] ?? parts.list.appendChild(element("li")), text));
  while (parts.list.children.length > texts.length) parts.list.lastChild.remove();
  write(parts.published, `${ago(component.published_ms_ago)} by ${component.published_by}`);
  const failed = Object.entries(guests.failures).map(([reason, count]) => `, ${count} × ${reason}`).join("");
  write(parts.guests, `${guests.busy} busy, ${guests.idle} idle, ${guests.waiting} waiting${failed}`);
  const states = [
    component.watching && "being watched",
    component.draining > 0 && `${component.draining} draining`,
    component.differs_from_source && "not what its source has",
  ].filter(Boolean);
  write(parts.state, states.join(", ") || "settled");
  parts.button.disabled = previous(component) === undefined;
});

async function rollBack(name) {
  const component = facts.components.find((component) => component.name === name);
  const target = component && previous(component);
  if (!target) return;
  const question = `Roll ${name} back from ${short(component.digest)} to ${short(target.digest)}?`;
  if (!(await confirmed(question, "Roll back"))) return;
  await act(async () => {
    // Without a digest it is the newest one before: only that can have the same bytes.
    const to = target.digest === component.digest ? {} : { to: target.digest };
    const swapped = await send("POST", `/components${path(name)}/rollback`, to);
    return `${name}: ${short(swapped.digest)} is active.`;
  });
}

// Instances

const instanceName = ({ namespace, name }) => `${namespace}/${name}`;
const isOut = (instance) => instance.rotation === "out";

const showInstances = rows(by("instances"), instanceName, (cells, { namespace, name }) => {
  const [first, second, state, address, seen, failures, action] = cells;
  const button = element("button");
  button.type = "button";
  button.addEventListener("click", () => rotate(namespace, name));
  action.append(button);
  write(first, namespace);
  write(second, name);
  return { state, address, seen, failures, button, shown: null };
}, (parts, instance, row) => {
  const { state } = instance;
  const out = isOut(instance);
  if (parts.shown !== state + out) {
    parts.shown = state + out;
    // The sign says the same as the colour.
    const [kind, text] = out ? ["warn", "◌ out of rotation"] : state === "available" ? ["good", "● available"] : ["bad", "✕ unavailable"];
    parts.state.replaceChildren(element("span", kind, text));
    write(parts.button, out ? "Put in" : "Take out");
    parts.button.setAttribute("aria-label", `${out ? "Put into" : "Take out of"} rotation: ${instanceName(instance)}`);
    row.dataset.state = out ? "out" : state;
  }
  write(parts.address, instance.address);
  write(parts.seen, ago(instance.last_seen_ms));
  write(parts.failures, String(instance.failures));
  const hidden = !isWanted(instance);
  if (row.hidden !== hidden) row.hidden = hidden;
});

function isWanted(instance) {
  const [words, which] = [by("filter").value.trim().toLowerCase().split(/\s+/), by("which").value];
  const text = `${instanceName(instance)} ${instance.address}`.toLowerCase();
  const state = isOut(instance) ? "out" : instance.state;
  return (which === "all" || which === state) && words.every((word) => text.includes(word));
}

function showAllInstances() {
  const { instances, available, total, unlisted = 0 } = facts;
  showInstances(instances);
  write(by("available"), `${number(available)} of ${number(total)} available`);
  const wanted = instances.filter(isWanted).length;
  const left = unlisted ? `; ${number(unlisted)} more are not sent, “host status” has them` : "";
  write(by("shown"), wanted < total ? `${number(wanted)} shown${left}` : "");
}
for (const [id, kind] of [["filter", "input"], ["which", "change"]]) {
  by(id).addEventListener(kind, () => facts && showAllInstances());
}

async function rotate(namespace, name) {
  const same = (instance) => instance.namespace === namespace && instance.name === name;
  const instance = facts.instances.find(same);
  if (!instance) return;
  const rotation = isOut(instance) ? "in" : "out";
  if (rotation === "out" && instance.state === "available") {
    const others = facts.instances.filter((one) => one.namespace === namespace && one.state === "available" && !same(one));
    const question = `${name} is the last available instance of ${namespace}: without it, requests are answered 503. Take it out?`;
    if (others.length === 0 && !(await confirmed(question, "Take it out"))) return;
  }
  await act(async () => {
    await send("PUT", `/instances${path(namespace, name)}`, { rotation });
    return `${namespace}/${name} is ${rotation === "out" ? "out of" : "in"} rotation.`;
  });
}

// Failures

const emptyFailure = blank(by("failures"));

function showFailures({ failures }) {
  const body = by("failures").tBodies[0];
  by("failures").hidden = failures.length === 0;
  by("no-failures").hidden = failures.length > 0;
  while (body.rows.length > failures.length) body.lastElementChild.remove();
  failures.forEach((failure, index) => {
    const row = body.rows[index] ?? body.appendChild(emptyFailure());
    const what = [failure.component, failure.instance].filter(Boolean).join(", ");
    const texts = [
      ago(failure.ms_ago), `${failure.kind}${what ? `: ${what}` : ""}`,
      failure.times > 1 ? `${failure.reason} (${failure.times} times)` : failure.reason,
      failure.status === undefined ? "–" : String(failure.status), failure.handler ?? "–", failure.request_id ?? "–",
    ];
    texts.forEach((text, cell) => write(row.cells[cell], text));
  });
}

// What is asked of the person, and told

async function answered(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  return dialog.returnValue;
}

async function confirmed(question, yes) {
  if (by("confirm").open) return false;
  write(by("question"), question);
  write(by("yes"), yes);
  return (await answered(by("confirm"))) === "yes";
}

async function askForToken(wasWrong) {
  by("wrong").hidden = !wasWrong;
  for (;;) {
    await answered(by("login"));
    const token = by("token").value.trim();
    by("token").value = "";
    // No other characters can be in a token, nor be sent.
    if (/^[!-~]+$/.test(token)) return setToken(token);
    if (token !== "") by("wrong").hidden = false;
  }
}

async function act(action) {
  const message = by("message");
  try {
    write(message, await action());
    message.dataset.kind = "done";
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    write(message, error.message);
    message.dataset.kind = "failed";
  }
  message.hidden = false;
}

function showConnection(state, text) {
  by("connection").dataset.state = state;
  write(by("connection"), text);
}

function show(newest) {
  facts = newest;
  version ??= facts.version;
  const ready = facts.not_ready === null ? "● ready" : `◌ ${facts.not_ready}`;
  write(by("host"), `version ${facts.version}, started ${ago(facts.uptime_ms)}, ${ready}`);
  showFigures(facts);
  showComponents(facts.components);
  showAllInstances();
  showFailures(facts);
  showConnection("live", "● live");
}

let asked = false;
for (;;) {
  try {
    for await (const newest of events("/status/events")) show(newest);
  } catch (error) {
    if (!(error instanceof Failed)) {
      // The page of another version may be needed by now.
      if (facts !== null && facts.version !== version) location.reload();
      showConnection("away", "✕ This page can't read what the host sends; reload it.");
      throw error;
    }
    if (error.status === 401) {
      showConnection("away", "◌ waiting for the token");
      await askForToken(asked);
      asked = true;
      continue;
    }
    asked = false;
    showConnection("away", `✕ ${error.message} Trying again …`);
  }
  await new Promise((later) => setTimeout(later, AGAIN));
}
