// On a task instance's own page in Airflow: where its job is, why, and what to do. Airflow takes `Edge job`.

import { Fragment, h, InAirflow, takeStyle } from "./host.js";
import { useLive } from "./live.js";
import { Badge, Empty, Facts, Table, Trouble } from "./parts.js";
import { moment } from "./words.js";

const CLAIMS = [
  { key: "offered_at", label: "Offered", cell: (one) => moment(one.offered_at) },
  { key: "worker", label: "To", cell: (one) => one.worker },
  { key: "phase", label: "Got as far as", cell: (one) => h(Badge, { state: one.phase }) },
  { key: "result", label: "Ended", cell: (one) => [one.result, one.detail].filter(Boolean).join(": ") },
];

const SEATS = [
  { key: "worker", label: "Worker", cell: (one) => one.worker },
  { key: "why", label: "Why it does not take this job, or does", cell: (one) => one.why },
];

function Verdict({ dagId, runId, taskId, mapIndex }) {
  takeStyle();
  const live = useLive({ of: "verdict", dag_id: dagId, run_id: runId, task_id: taskId, map_index: mapIndex ?? -1 });
  const one = live.data?.row ?? null;
  return h("div", { className: "ew ew-page" },
    h(Trouble, { live }),
    live.data !== null && one === null ? h(Empty, { title: "Nothing is known of this task" }) : null,
    one === null ? null : h(Fragment, null,
      h("h2", null, one.verdict),
      one.advice ? h("p", null, one.advice) : null,
      h(Facts, { of: [
        ["Where it is", one.state ? h(Badge, { state: one.phase ?? one.state }) : null],
        ["Queue", one.queue],
        ["Worker", one.worker ? h(InAirflow, { to: `/plugin/edge-ws?tab=worker&worker=${encodeURIComponent(one.worker)}` }, one.worker) : null],
        ["Try", one.try_number],
        ["Queued", moment(one.queued_at)],
        ["Offered", moment(one.offered_at)],
        ["Jobs before it", one.jobs_before_it],
        ["Priority", one.priority],
        ["Slots it takes", one.slots],
        ["Last line of its log", one.last_log_line],
      ] }),
      one.unmet?.length ? h(Fragment, null, h("h3", null, "What Airflow waits for"), h("ul", { className: "ew-answers" }, one.unmet.map((reason) => h("li", { key: reason.code + reason.reason }, reason.reason)))) : null,
      one.workers?.length ? h(Fragment, null, h("h3", null, "Workers"), h(Table, { label: "Workers", rows: one.workers, columns: SEATS, name: (row) => row.worker })) : null,
      one.claims?.length ? h(Fragment, null, h("h3", null, "Offers"), h(Table, { label: "Offers", rows: one.claims, columns: CLAIMS, name: (row) => row.claim })) : null));
}

globalThis["Edge job"] = Verdict;
