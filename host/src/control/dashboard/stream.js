// What the host is asked, with the token if there is one. The token is in this tab's storage only.
//
// `EventSource` can't send a token, so the stream of events is read with `fetch`.

const KEY = "hostler-token";
const SILENCE = 10_000; // Events come every second.
const LARGEST = 4 << 20;

/** Why a request failed: `status` 0 if there was no answer. */
export class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setToken(token) {
  sessionStorage.setItem(KEY, token);
}

function headers(more) {
  const token = sessionStorage.getItem(KEY);
  return token === null ? { ...more } : { ...more, authorization: `Bearer ${token}` };
}

async function failure(answer) {
  const problem = await answer.json().catch(() => ({}));
  return new Failed(answer.status, problem.detail ?? `The host answered ${answer.status}.`);
}

/** Sends a document and returns the answer's. */
export async function send(method, path, document) {
  const options = { method, headers: headers({ "content-type": "application/json" }), body: JSON.stringify(document) };
  const answer = await fetch(path, options).catch(() => {
    throw new Failed(0, "The host can't be reached.");
  });
  if (!answer.ok) throw await failure(answer);
  return answer.json();
}

/** The documents of a stream's events. Only the newest counts if several have come at once. Ends by an exception only. */
export async function* events(path) {
  const ending = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => ending.abort(), SILENCE);
  };
  heard();
  try {
    const answer = await fetch(path, { headers: headers({}), signal: ending.signal, cache: "no-store" });
    if (!answer.ok) throw await failure(answer);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let pending = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Failed(0, "The host has stopped.");
      heard();
      pending += value;
      const complete = pending.split("\n\n");
      pending = complete.pop();
      if (pending.length > LARGEST) throw new Failed(0, "What answers is no host.");
      const newest = complete.findLast((event) => event.startsWith("data: "));
      if (newest !== undefined) yield JSON.parse(newest.slice("data: ".length));
    }
  } catch (error) {
    throw error instanceof Failed ? error : new Failed(0, "The host can't be reached.");
  } finally {
    clearTimeout(timer);
    ending.abort();
  }
}
