// Workers: the table with its filters, and what can be done for those that are chosen.

import { Acting } from "./acting.js";
import { ask } from "./api.js";
import { Fragment, h, useEffect, useState } from "./host.js";
import { useLive } from "./live.js";
import { Age, Badge, Bar, Empty, Filter, Pages, Table, Trouble } from "./parts.js";
import { list, moment, percent, plural } from "./words.js";

const SIZE = 50;
const STATES = ["running", "idle", "paused", "maintenance", "not_ready", "leaving", "away", "offline"];
const FILTERS = ["q", "state", "queue", "team", "transport", "version_mismatch"];

/** A wish that is not in force yet stands beside what is. */
function Wished({ wanted, applied, same }) {
  return same ? applied : h("span", { className: "ew-wish" }, h("strong", null, `${wanted} wanted`), `, ${applied} applied`);
}

const sameList = (one, other) => JSON.stringify([...(one ?? [])].sort()) === JSON.stringify([...(other ?? [])].sort());

export const isWish = (of) => typeof of.wished_concurrency === "number" && of.wished_concurrency !== of.concurrency;
const isQueueWish = (of) => Array.isArray(of.wished_queues) && !sameList(of.wished_queues, of.queues);

export const WishedConcurrency = ({ of }) => h(Wished, { wanted: of.wished_concurrency, applied: of.concurrency, same: !isWish(of) });

export const WishedQueues = ({ of }) => h(Wished, { wanted: list(of.wished_queues), applied: list(of.queues), same: !isQueueWish(of) });

/** What is wanted of a worker that it has not confirmed. */
export function pending(one) {
  if (one.kind !== "edge-ws" || one.applied !== false) return null;
  if (one.wished_shutdown) return "shutdown wanted, not confirmed yet";
  if (one.wished_maintenance && one.status !== "maintenance") return "maintenance wanted, not confirmed yet";
  // These stand beside what is in force, in a column of their own.
  return isWish(one) || isQueueWish(one) ? null : "a change is wanted that it has not confirmed yet";
}

export function State({ of }) {
  return h(Fragment, null,
    h(Badge, { state: of.status, title: of.why_no_jobs ?? undefined }, of.status.replace("_", " ")),
    of.leaves_by ? h("div", { className: "ew-small" }, `leaves by ${moment(of.leaves_by)}`) : null,
    pending(of) ? h("div", { className: "ew-small ew-wish" }, pending(of)) : null,
    of.status === "maintenance" || of.maintenance_comment
      // How long one has been away is in a column of its own.
      ? h(Maintenance, { of }) : ["not_ready", "paused"].includes(of.status) && of.why_no_jobs
        ? h("div", { className: "ew-small" }, of.why_no_jobs) : null);
}

export function Maintenance({ of }) {
  // The first line of a comment that came by HTTP says who wrote it, as edge3's page has it.
  const comment = (of.maintenance_comment ?? "").replace(/^\[.*\n(Comment: )?/, "");
  const by = of.maintenance_by ?? /- (.*?) put node/.exec(of.maintenance_comment ?? "")?.[1];
  const told = [comment, by ? `by ${by}` : "", of.maintenance_until ? `until ${moment(of.maintenance_until)}` : ""].filter(Boolean);
  return told.length ? h("div", { className: "ew-small", "data-of": "maintenance" }, told.join(", ")) : null;
}

export function Transport({ of }) {
  if (!of.transport) return h("span", { className: "ew-dim" }, "–");
  const name = { longpoll: "long-poll", websocket: "WebSocket" }[of.transport] ?? of.transport;
  return h(Fragment, null,
    of.transport === "longpoll" ? h(Badge, { kind: "warn" }, name) : name,
    of.round_trip_ms !== null && of.round_trip_ms !== undefined ? h("span", { className: "ew-dim" }, ` ${Math.round(of.round_trip_ms)} ms`) : null,
    of.transport === "longpoll" && of.transport_reason ? h("div", { className: "ew-small" }, of.transport_reason) : null,
    of.transport_since ? h("div", { className: "ew-small ew-line" }, "since ", moment(of.transport_since)) : null);
}

export const Versions = ({ of }) =>
  h(Fragment, null,
    of.edge_ws_version ?? (of.kind === "edge3" ? "edge3" : ""),
    of.airflow_version ? h("div", { className: "ew-small ew-line" }, `Airflow ${of.airflow_version}`) : null,
    of.version_mismatch ? h("div", { className: "ew-small" }, h(Badge, { kind: "warn", title: of.version_mismatch }, "mismatch"), ` ${of.version_mismatch}`) : null);

export function Machine({ of }) {
  const told = [
    ["CPU", percent(of.cpu_usage)],
    ["memory", percent(of.memory_usage)],
    ["disk", of.disk_usage !== null && of.disk_usage !== undefined ? percent(of.disk_usage) : of.disk_free_gb ? `${Math.round(of.disk_free_gb)} GB free` : ""],
    ["load", of.sys_load ?? ""],
    ...Object.entries(of.facts ?? {}).slice(0, 3),
  ].filter(([, value]) => value !== "" && value !== null);
  return h("ul", { className: "ew-machine" }, told.map(([name, value]) => h("li", { key: name }, h("span", { className: "ew-dim" }, `${name} `), String(value))));
}

const columns = (open) => [
  {
    key: "worker_name", label: "Name", sort: "worker_name",
    cell: (one) => h(Fragment, null,
      h("button", { type: "button", className: "ew-link", onClick: () => open(one.worker_name) }, one.worker_name),
      one.team_name ? h("div", { className: "ew-small" }, `team ${one.team_name}`) : null,
      one.kind === "edge3" ? h("div", { className: "ew-small" }, "edge3’s worker") : null),
  },
  { key: "status", label: "State", sort: "status", cell: (one) => h(State, { of: one }) },
  {
    key: "slots", label: "Slots", sort: "slots_used",
    cell: (one) => h(Fragment, null,
      h(Bar, { used: one.slots_used ?? 0, of: one.concurrency ?? 0, label: "slots" }),
      isWish(one) ? h("div", { className: "ew-small", "data-of": "concurrency" }, h(WishedConcurrency, { of: one })) : null),
  },
  { key: "queues", label: "Queues", cell: (one) => h(WishedQueues, { of: one }) },
  { key: "transport", label: "Transport", sort: "transport", cell: (one) => h(Transport, { of: one }) },
  { key: "last_seen_at", label: "Last contact", sort: "last_seen_at", cell: (one) => h(Age, { at: one.last_seen_at }) },
  { key: "version", label: "Version", sort: "edge_ws_version", cell: (one) => h(Versions, { of: one }) },
  { key: "machine", label: "Machine", cell: (one) => h(Machine, { of: one }) },
];

export function Workers({ params, change, told }) {
  const [selection, select] = useState(new Set());
  const query = { of: "workers", limit: SIZE, offset: Number(params.get("offset") ?? 0), sort: params.get("sort") ?? "worker_name" };
  if (params.get("desc")) query.desc = 1;
  const filters = Object.fromEntries(FILTERS.map((name) => [name, params.get(name)]).filter(([, value]) => value));
  const live = useLive({ ...query, ...filters });
  useEffect(() => told(live), [live]);
  const { data } = live;
  const filter = (name) => (value) => {
    select(new Set());
    change({ [name]: value, offset: null });
  };
  const summary = data?.summary;
  const open = (worker) => change({ tab: "worker", worker, ...Object.fromEntries([...FILTERS, "offset", "sort", "desc"].map((one) => [one, null])) }, { replace: false });

  /** The names of all that match, page by page. */
  const everyName = async () => {
    const names = [];
    for (let offset = 0; ; offset += 500) {
      const page = await ask("view", { of: "workers", ...filters, sort: "worker_name", offset, limit: 500 });
      names.push(...page.rows.map((one) => one.worker_name));
      if (page.rows.length === 0 || names.length >= page.total) return names;
    }
  };

  return h("section", { "aria-label": "Workers" },
    summary?.workers.all ? h(Totals, { of: summary, totals: data.totals, state: filters.state, onState: filter("state") }) : null,
    summary?.workers.all === 0 ? null : h("div", { className: "ew-filters", role: "search", "aria-label": "Filter workers" },
      h(Filter, { label: "Name", value: filters.q, onChange: filter("q"), placeholder: "part, or press-*" }),
      h(Filter, { label: "State", value: filters.state, onChange: filter("state"), options: STATES }),
      h(Filter, { label: "Queue", value: filters.queue, onChange: filter("queue"), options: summary?.queue_names ?? [] }),
      summary?.teams?.length ? h(Filter, { label: "Team", value: filters.team, onChange: filter("team"), options: summary.teams }) : null,
      h(Filter, { label: "Transport", value: filters.transport, onChange: filter("transport"), options: ["websocket", "longpoll"] })),
    h(Trouble, { live }),
    data === null ? null : data.rows.length === 0
      ? Object.keys(filters).length
        ? h(Empty, { title: "No worker matches" },
          h("button", { type: "button", className: "ew-button", onClick: () => change(Object.fromEntries(FILTERS.map((one) => [one, null]))) }, "Show all workers"))
        : h(Empty, { title: "No worker has connected yet" },
          h("p", null, "A worker runs your tasks on a machine far from here. It needs this server’s URL and a token."),
          h("button", { type: "button", className: "ew-button ew-primary", onClick: () => change({ tab: "join" }, { replace: false }) }, "Add a worker"))
      : h(Fragment, null,
        data.me?.may_manage
          ? h(Acting, { names: [...selection], total: data.total, everyName, shown: data.rows, onDone: live.again, onClear: () => select(new Set()) })
          : null,
        h(Table, {
          label: "Workers", columns: columns(open), rows: data.rows, name: (one) => one.worker_name,
          order: [query.sort, Boolean(query.desc)],
          onOrder: (sort, desc) => change({ sort, desc: desc ? "1" : null, offset: null }),
          selection: data.me?.may_manage ? selection : undefined, onSelect: select,
        }),
        h(Pages, { total: data.total, offset: data.offset, size: SIZE, onOffset: (offset) => change({ offset: offset || null }), what: "worker" })));
}

function Totals({ of, totals, state, onState }) {
  const { workers, slots } = of;
  const tiles = STATES.filter((one) => totals?.[one]).map((one) =>
    h("button", { key: one, type: "button", className: "ew-tile", "aria-pressed": state === one, onClick: () => onState(state === one ? "" : one) },
      h("strong", null, totals[one].toLocaleString()), h(Badge, { state: one }, one.replace("_", " "))));
  return h("div", { className: "ew-tiles" },
    tiles,
    h("div", { className: "ew-tile" }, h("strong", null, `${slots.used} / ${slots.all}`), "slots used"),
    workers.longpoll ? h("div", { className: "ew-tile" }, h("strong", null, workers.longpoll), "on long-poll") : null,
    workers.version_mismatch ? h("div", { className: "ew-tile" }, h("strong", null, workers.version_mismatch), `${plural(workers.version_mismatch, "version").replace(/^\S+ /, "")} differ`) : null);
}
