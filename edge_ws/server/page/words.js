// Values as words: ages, times, sizes, tones of states.

const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
];

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds > 0 && seconds < 0.995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  for (const [size, unit] of UNITS) {
    if (seconds >= size) {
      const whole = Math.floor(seconds / size);
      const next = UNITS[UNITS.findIndex((one) => one[0] === size) + 1];
      const rest = next ? Math.floor((seconds % size) / next[0]) : 0;
      return rest && whole < 10 ? `${whole} ${unit} ${rest} ${next[1]}` : `${whole} ${unit}`;
    }
  }
  return `${Math.round(seconds)} s`;
}

export const age = (seconds) => (seconds === null || seconds === undefined ? "" : seconds < 2 ? "now" : `${duration(Math.floor(seconds))} ago`);

/** A moment in the browser's time: the time of day, with the day of the week or the date where that is not today. */
export function moment(iso) {
  if (!iso) return "";
  const at = new Date(iso);
  const time = { hour: "2-digit", minute: "2-digit" };
  if (at.toDateString() === new Date().toDateString()) return at.toLocaleTimeString([], time);
  const isNear = Math.abs(at - Date.now()) < 6 * 86400 * 1000;
  return isNear ? at.toLocaleString([], { weekday: "short", ...time }) : `${at.toLocaleDateString()} ${at.toLocaleTimeString([], time)}`;
}

export const list = (names, all = "all") => (names === null || names === undefined ? all : names.join(", ") || "none");

export const percent = (value) => (value === null || value === undefined ? "" : `${Math.round(value)} %`);

const TONES = {
  running: "good", idle: "good", success: "good", started: "good", valid: "good",
  queued: "calm", offered: "calm", accepted: "calm", restarting: "calm", leaving: "calm",
  maintenance: "warn", paused: "warn", not_ready: "warn", waits: "warn", none_take: "warn",
  away: "bad", failed: "bad", unserved: "bad", all_away: "bad", revoked: "bad", expired: "bad",
  offline: "off", removed: "off",
};

export const tone = (state) => TONES[state] ?? "calm";

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : many}`;
