// One worker: all that is known of it, its jobs, its settings, and what can be done for it.

import { Wish, Wishes, WISHES } from "./acting.js";
import { Fragment, h, useEffect, useState } from "./host.js";
import { jobColumns, jobName } from "./jobs.js";
import { EventList } from "./events.js";
import { useLive } from "./live.js";
import { Age, Bar, Empty, Facts, Notice, Table, Trouble } from "./parts.js";
import { Machine, Maintenance, State, Transport, Versions, WishedConcurrency, WishedQueues, isWish } from "./workers.js";
import { list, moment } from "./words.js";

/** Facts of the machine that have a place of their own. */
const SHOWN = new Set(["settings_default", "site_facts", "transport_reason", "no_jobs_code"]);

export function Worker({ params, change, told }) {
  const [asked, setAsked] = useState(null);
  const name = params.get("worker") ?? "";
  const live = useLive({ of: "worker", worker: name });
  const { data } = live;
  useEffect(() => told(live), [live]);
  const one = data?.row ?? data?.rows?.[0] ?? null;
  return h("section", { "aria-label": `Worker ${name}` },
    h("p", null, h("button", { type: "button", className: "ew-link", onClick: () => change({ tab: "workers", worker: null }, { replace: false }) }, "← All workers")),
    h("h2", null, name),
    h(Trouble, { live }),
    data !== null && one === null
      ? h(Empty, { title: `No worker named ${name} has connected yet` }, h("p", null, "Has it been removed, or does it run under another name?")) : null,
    one === null ? null : h(Fragment, null,
      data.me?.may_manage ? h("div", { className: "ew-buttons", role: "toolbar", "aria-label": "Change this worker" }, h(Wishes, { onAsk: setAsked })) : null,
      one.version_mismatch ? h(Notice, null, one.version_mismatch) : null,
      h(Facts, { of: [
        ["State", h(State, { of: one })],
        ["Takes jobs", one.takes_jobs ? "yes" : one.why_no_jobs],
        ["Slots", h(Fragment, null, h(Bar, { used: one.slots_used ?? 0, of: one.concurrency ?? 0, label: "slots" }), isWish(one) ? h("div", null, h(WishedConcurrency, { of: one })) : null)],
        ["Queues", h(WishedQueues, { of: one })],
        ["Team", one.team_name],
        ["Transport", h(Transport, { of: one })],
        ["Last contact", h(Age, { at: one.last_seen_at })],
        ["Connected since", moment(one.connected_since)],
        ["Connections lost", one.connection_losses ? `${one.connection_losses}, last ${moment(one.connection_lost_at)}: ${one.connection_lost_why ?? "?"}` : one.connection_losses],
        ["Gateway", one.gateway_hostname ?? one.gateway],
        ["Maintenance", one.maintenance_comment ? h(Maintenance, { of: one }) : null],
        ["Wish", one.wish_revision === null || one.wish_revision === undefined ? null : `revision ${one.wish_revision}, ${one.applied_revision} applied`],
        ["Versions", h(Versions, { of: one })],
        ["Machine", h(Machine, { of: one })],
        ["Clock", one.clock_skew_s === null || one.clock_skew_s === undefined ? null : `${Math.abs(one.clock_skew_s).toFixed(1)} s ${one.clock_skew_s < 0 ? "behind" : "ahead"}`],
        ["Reports not acknowledged", one.outbox_entries],
        ["First online", moment(one.first_online)],
        ["Site", one.site],
      ] }),
      h("h3", null, "Token"),
      h(Facts, { of: [
        ["Name", one.token ?? "none of edge-ws (an identity provider’s)"],
        ["Good", one.token_valid === null || one.token_valid === undefined ? one.token_state : one.token_valid ? "yes" : "no"],
        ["Expires", one.token_expires ? moment(one.token_expires) : one.token ? "never" : null],
        ["Queues", one.token ? list(one.token_queues, "every queue") : null],
        ["Team", one.token_team],
      ] }),
      h("h3", null, "Jobs"),
      one.jobs?.length
        ? h(Table, { label: `Jobs of ${name}`, rows: one.jobs, name: jobName, columns: jobColumns(() => {}).filter((column) => column.key !== "worker") })
        : h("p", { className: "ew-dim" }, "It holds no job."),
      h("p", null, h("button", { type: "button", className: "ew-link", onClick: () => change({ tab: "jobs", worker: name }, { replace: false }) }, "All jobs that it has had")),
      one.events?.length ? h(Fragment, null, h("h3", null, "What happened"), h(EventList, { rows: one.events })) : null,
      one.settings?.length ? h(Fragment, null, h("h3", null, "Settings"), h(Table, {
        label: "Settings", rows: one.settings, name: (row) => row.name,
        columns: [
          { key: "name", label: "Setting", cell: (row) => row.name },
          { key: "value", label: "Value", cell: (row) => String(row.value) },
          { key: "origin", label: "From", cell: (row) => row.origin },
        ],
      })) : null,
      one.sysinfo ? h("details", null, h("summary", null, "All that it says of itself"),
        h(Facts, { of: Object.entries(one.sysinfo).filter(([key]) => !SHOWN.has(key)).map(([key, value]) => [key, String(value)]) })) : null),
    asked && one ? h(Wish, { wish: WISHES[asked], workers: [name], rows: [one], onClose: () => { setAsked(null); live.again(); } }) : null);
}
