// The last hour as plots, merged over all gateways of that hour.

import { Fragment, h, useEffect } from "./host.js";
import { useLive } from "./live.js";
import { Badge, Table, Trouble } from "./parts.js";
import { Plot } from "./plots.js";
import { age, duration, moment } from "./words.js";

const OUTCOMES = { success: "green", failed: "red", not_started: "orange", lost: "purple", removed: "gray" };
const words = (name) => name.replaceAll("_", " ");
const count = (value) => (Number.isInteger(value) ? value.toLocaleString() : "");
const seconds = (value) => (value === 0 ? "0" : duration(value));

/** A series for each name that the minutes' `key` has, the most frequent first. */
function named(minutes, key, colours = {}) {
  const totals = {};
  for (const minute of minutes) for (const [name, value] of Object.entries(minute[key] ?? {})) totals[name] = (totals[name] ?? 0) + value;
  return Object.entries(totals).sort((one, other) => other[1] - one[1]).map(([name, total]) => ({
    name: words(name), told: total.toLocaleString(), colour: colours[name], values: minutes.map((minute) => minute[key]?.[name] ?? 0),
  }));
}

const quantiles = (minutes, hour, key) => ["p50", "p99"].map((one) => ({
  name: one, told: hour?.[key]?.[one] ? `${duration(hour[key][one])} in the hour` : "", values: minutes.map((minute) => minute[key]?.[one] ?? null),
}));

const GATEWAY = [
  { key: "hostname", label: "Gateway", cell: (one) => h(Fragment, null, h("strong", null, one.hostname), h("span", { className: "ew-dim" }, ` process ${one.pid}`)) },
  { key: "alive", label: "State", cell: (one) => h(Badge, { kind: one.alive ? "good" : "off" }, one.alive ? "alive" : "ended") },
  { key: "seen", label: "Last seen", cell: (one) => age(one.seen_s) },
  { key: "since", label: "Started", cell: (one) => moment(one.started_at) },
  { key: "connections", label: "Connections", cell: (one) => `${one.connections?.websocket ?? 0} WebSocket, ${one.connections?.longpoll ?? 0} long-poll` },
  { key: "wakeup", label: "Woken by", cell: (one) => (one.wakeup === "polling" ? h(Badge, { kind: "warn" }, "looking by itself") : one.wakeup) },
];

export function Figures({ told }) {
  const live = useLive({ of: "figures" });
  useEffect(() => told(live), [live]);
  const figures = live.data?.figures ?? null;
  if (figures === null) return h(Trouble, { live });
  const { minutes, hour, gateways } = figures;
  const times = minutes.map((one) => one.minute);
  return h("section", { "aria-label": "Last hour" },
    h(Trouble, { live }),
    h("div", { className: "ew-plots" },
      h(Plot, { title: "Push latency", note: "From a queued job and a free slot to the offer.", series: quantiles(minutes, hour, "push_latency"), times, say: seconds }),
      h(Plot, { title: "Start latency", note: "From queued to started.", series: quantiles(minutes, hour, "start_latency"), times, say: seconds }),
      h(Plot, { title: "Jobs a minute, by outcome", kind: "bars", whole: true, series: named(minutes, "ends", OUTCOMES), times, say: count }),
      h(Plot, { title: "Connects, by transport", kind: "bars", whole: true, series: named(minutes, "connects"), times, say: count }),
      h(Plot, { title: "Drops, by reason", kind: "bars", whole: true, series: named(minutes, "drops"), times, say: count }),
      h(Plot, {
        title: "Share on long-poll", series: [{ name: "of all connections", values: minutes.map((one) => one.longpoll_share ?? null) }],
        times, most: 1, say: (value) => `${Math.round(value * 100)} %`,
      })),
    h("h3", null, "Gateways"),
    h(Table, { label: "Gateways", columns: GATEWAY, rows: gateways ?? [], name: (one) => one.id }));
}
