// Asks the gateway's v1/admin/. Airflow's own cookie says who asks; each refusal becomes an Error with its sentence.

const ADMIN = new URL("../v1/admin/", import.meta.url);

export class Refusal extends Error {
  constructor(status, code, sentence) {
    super(sentence);
    this.status = status;
    this.code = code;
  }
}

export function address(name, query = {}) {
  const url = new URL(name, ADMIN);
  for (const [key, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") url.searchParams.append(key, one);
    }
  }
  return url;
}

/** Where Airflow is, as workers are to be told: without a slash at its end. */
export const AIRFLOW = new URL("../../", import.meta.url).href.replace(/\/$/, "");

async function answerOf(request) {
  let answer;
  try {
    answer = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "away", "No answer: Airflow's server cannot be reached from this browser.");
  }
  const text = await answer.text();
  let said = null;
  try {
    said = JSON.parse(text);
  } catch {
    // A proxy's page, for instance.
  }
  if (answer.ok && said !== null) return said;
  const sentence = said?.sentence ?? `The server answered ${answer.status} ${answer.statusText}`.trim();
  throw new Refusal(answer.status, said?.error ?? "unknown", sentence);
}

export const ask = (name, query, signal) =>
  answerOf(fetch(address(name, query), { credentials: "same-origin", signal, headers: { accept: "application/json" } }));

export const change = (name, body) =>
  answerOf(
    fetch(address(name), {
      method: "POST",
      credentials: "same-origin",
      headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify(body),
    }),
  );
