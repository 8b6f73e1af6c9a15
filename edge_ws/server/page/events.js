// The last few hundred things that happened to the fleet, the newest first; the same as `edge-ws events -f`.

import { h, useEffect } from "./host.js";
import { useLive } from "./live.js";
import { Badge, Empty, Filter, Table, Trouble } from "./parts.js";

const KINDS = [
  "connected", "disconnected", "refused", "silent", "offer_refused", "offer_expired", "taken_back", "cancelled", "not_started", "lost",
  "removed", "wished", "applied", "maintenance", "maintenance_ended", "shutdown", "forgotten", "queue_paused", "queue_resumed", "token_created",
  "token_rotated", "token_narrowed", "token_revoked", "gateway_started", "gateway_ended", "left_out",
];
const TONES = {
  connected: "good", applied: "good", gateway_started: "good", maintenance_ended: "good", queue_resumed: "good",
  refused: "bad", silent: "bad", lost: "bad", not_started: "bad",
  disconnected: "warn", offer_refused: "warn", offer_expired: "warn", cancelled: "warn", queue_paused: "warn", maintenance: "warn", shutdown: "warn", gateway_ended: "warn",
};

const time = (iso) => {
  const at = new Date(iso);
  const day = at.toDateString() === new Date().toDateString() ? "" : `${at.toLocaleDateString()} `;
  return day + at.toLocaleTimeString();
};

const COLUMNS = [
  { key: "at", label: "When", cell: (one) => h("time", { dateTime: one.at }, time(one.at)) },
  { key: "kind", label: "What", cell: (one) => h(Badge, { kind: TONES[one.kind] ?? "calm" }, one.kind.replaceAll("_", " ")) },
  { key: "of", label: "Of", cell: (one) => one.worker ?? (one.queue ? `queue ${one.queue}` : one.gateway ?? "") },
  { key: "words", label: "In words", cell: (one) => one.words },
  { key: "who", label: "By", cell: (one) => one.who },
];

export const EventList = ({ rows }) => h(Table, { label: "Events", columns: COLUMNS, rows: [...rows].reverse(), name: (one) => String(one.id) });

export function Events({ params, change, told }) {
  const query = { of: "events", limit: 500 };
  for (const name of ["worker", "kind"]) if (params.get(name)) query[name] = params.get(name);
  const live = useLive(query);
  useEffect(() => told(live), [live]);
  const rows = live.data?.rows ?? null;
  return h("section", { "aria-label": "Events" },
    h("div", { className: "ew-filters", role: "search", "aria-label": "Filter events" },
      h(Filter, { label: "Worker", value: params.get("worker"), onChange: (worker) => change({ worker }), placeholder: "name, or press-*" }),
      h(Filter, { label: "What", value: params.get("kind"), onChange: (kind) => change({ kind }), options: KINDS })),
    h(Trouble, { live }),
    rows === null ? null : rows.length
      ? h(EventList, { rows })
      : h(Empty, { title: query.worker || query.kind ? "No such event" : "Nothing has happened yet" },
        h("p", null, "Connections, refusals, wishes and lost jobs are here as they happen; on a command line: edge-ws events -f")));
}
