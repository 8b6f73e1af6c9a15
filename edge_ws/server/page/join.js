// Add a worker: makes a token, and prints what to run on the worker's own machine.

import { AIRFLOW, change } from "./api.js";
import { Fragment, h, useEffect, useState } from "./host.js";
import { Command, Notice, Trouble } from "./parts.js";
import { Input } from "./acting.js";
import { useLive } from "./live.js";

const FIELDS = [
  { name: "name", label: "Name", required: true, pattern: "[A-Za-z0-9][A-Za-z0-9_.\\-]{0,63}", hint: "The worker’s name, such as press-1." },
  { name: "queues", label: "Queues", hint: "That the token admits, with commas; empty: every queue. Its worker may then name any of them." },
  { name: "team", label: "Team", hint: "Only where Airflow runs with teams." },
  { name: "expires", label: "The token is good", options: [["", "until it is revoked"], ["30d", "for 30 days"], ["90d", "for 90 days"], ["365d", "for a year"]] },
];

/** A word for a shell. */
const quoted = (text) => (/^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function commands({ name, queues, version, secret }) {
  const wanted = version ? `'edge-ws[worker]==${version}'` : "'edge-ws[worker]'";
  const which = queues.length ? ` -q ${quoted(queues.join(","))}` : "";
  const insecure = AIRFLOW.startsWith("http://") && !/^http:\/\/(localhost|127\.|\[::1\])/.test(AIRFLOW) ? " --allow-insecure" : "";
  const token = secret ?? "THE-TOKEN";
  const url = quoted(AIRFLOW);
  return {
    pip: [
      "python3 -m venv ~/edge-ws",
      `~/edge-ws/bin/pip install ${wanted}`,
      // Not as an argument, which every list of processes would show.
      `umask 077; cat > ~/edge-ws.token <<< ${quoted(token)}`,
      `~/edge-ws/bin/edge-ws worker --url ${url} -H ${quoted(name)} --token-file ~/edge-ws.token${which}${insecure}`,
    ].join("\n"),
    systemd: [
      "sudo useradd --system --create-home --home-dir /var/lib/edge-ws edge-ws",
      "sudo python3 -m venv /opt/edge-ws",
      `sudo /opt/edge-ws/bin/pip install ${wanted}`,
      `sudo install -m 600 -o edge-ws /dev/stdin /var/lib/edge-ws/token <<< ${quoted(token)}`,
      "sudo tee /etc/systemd/system/edge-ws-worker.service > /dev/null <<'END'",
      "[Unit]",
      "Description=edge-ws worker",
      "Wants=network-online.target",
      "After=network-online.target",
      "",
      "[Service]",
      "User=edge-ws",
      `ExecStart=/opt/edge-ws/bin/edge-ws worker --url ${AIRFLOW} -H ${name} --token-file /var/lib/edge-ws/token --state-dir /var/lib/edge-ws/state${which}${insecure}`,
      "Restart=always",
      "RestartSec=5",
      "KillMode=mixed",
      "TimeoutStopSec=infinity",
      "",
      "[Install]",
      "WantedBy=multi-user.target",
      "END",
      "sudo systemctl daemon-reload && sudo systemctl enable --now edge-ws-worker",
    ].join("\n"),
    container: [
      `umask 077; cat > edge-ws.token <<< ${quoted(token)}`,
      "docker build -t edge-ws-worker - <<'END'",
      "FROM python:3.12-slim",
      `RUN pip install --no-cache-dir ${wanted} && useradd --uid 1000 --create-home worker && install -d -o worker /state`,
      "USER worker",
      'ENTRYPOINT ["edge-ws", "worker", "--state-dir", "/state", "--token-file", "/token"]',
      "END",
      "sudo chown 1000 edge-ws.token",
      `docker run -d --init --restart unless-stopped --stop-timeout 3600 --name ${quoted(name)} -v ${quoted(`${name}-state`)}:/state \\`,
      `  -v "$PWD/edge-ws.token:/token:ro" edge-ws-worker --url ${url} -H ${quoted(name)}${which}${insecure}`,
    ].join("\n"),
  };
}

const WAYS = [["pip", "By hand (pip)"], ["systemd", "As a service (systemd)"], ["container", "In a container"]];

export function Join({ change: go, told }) {
  const live = useLive({ of: "summary" });
  useEffect(() => told(live), [live]);
  const [given, setGiven] = useState({ name: "", queues: "", team: "", expires: "" });
  const [way, setWay] = useState("pip");
  const [state, setState] = useState({ step: "ask" });
  const [version, setVersion] = useState("");
  useEffect(() => {
    // Which release this server runs; a gateway that is about to end does not say.
    fetch(new URL("../health", import.meta.url)).then((answer) => answer.json()).then((said) => setVersion(said.versions?.edge_ws ?? ""), () => {});
  }, []);
  const queues = given.queues.split(/[\s,]+/).filter(Boolean);
  const mayManage = live.data?.me?.may_manage;
  const make = async (event) => {
    event.preventDefault();
    setState({ step: "sent" });
    try {
      const made = await change("token-create", {
        name: given.name, worker_name_pattern: given.name, ...(queues.length ? { queues } : {}),
        ...(given.team ? { team_name: given.team } : {}), ...(given.expires ? { expires: given.expires } : {}),
      });
      setState({ step: "made", made });
    } catch (error) {
      setState({ step: "ask", error: error.message });
    }
  };
  const texts = commands({ name: state.made?.name ?? (given.name || "press-1"), queues, version, secret: state.made?.secret });
  return h("section", { "aria-label": "Add a worker" },
    h(Trouble, { live }),
    h("p", null, "A worker needs a Linux machine with Python 3.11 or later, and a way out to ", h("strong", null, AIRFLOW), ". Nothing needs to reach it."),
    live.data && !mayManage ? h(Notice, null, `Only who has ${live.data.me?.manage_right ?? "the right to manage"} can make a token. With one from somebody who has, the commands below are all it takes.`) : null,
    mayManage ? h(Fragment, null,
      h("h3", null, "1. A token for it"),
      state.step === "made"
        ? h(Fragment, null,
          h(Notice, { kind: "good" }, h("strong", null, "The token is made. It is shown only here, and only now. "), state.made.told ?? ""),
          h(Command, { text: state.made.secret, label: "The token" }),
          h("button", { type: "button", className: "ew-button", onClick: () => setState({ step: "ask" }) }, "Another worker"))
        : h("form", { onSubmit: make, className: "ew-form" },
          FIELDS.map((field) => h(Input, { key: field.name, field, value: given[field.name], onChange: (value) => setGiven({ ...given, [field.name]: value }) })),
          state.error ? h(Notice, { kind: "bad" }, state.error) : null,
          h("button", { type: "submit", className: "ew-button ew-primary", disabled: state.step === "sent" }, "Make a token")),
      h("h3", null, "2. On its machine")) : null,
    h("div", { className: "ew-tabs", role: "group", "aria-label": "How it is to run" }, WAYS.map(([key, label]) =>
      h("button", { key, type: "button", "aria-pressed": key === way, onClick: () => setWay(key) }, label))),
    h(Command, { text: texts[way], label: "Commands" }),
    state.step === "made" ? h("p", null, "As soon as it connects it is in the list of ",
      h("button", { type: "button", className: "ew-link", onClick: () => go({ tab: "workers" }, { replace: false }) }, "workers"), ".") : null,
    h("p", { className: "ew-dim" }, "If it does not connect, this says why, on its machine: edge-ws doctor, with the same flags."));
}
