// The C-MOVE requests that came in, and what came of each; who is notified of them.

import { html, useContext } from "../vendor/preact.js";
import { drop, withQuery } from "../lib/api.js";
import { counted, number } from "../lib/format.js";
import { Filters, Pages } from "../lib/list.js";
import { useRoute } from "../lib/poll.js";
import { link } from "../lib/router.js";
import { ActButton, Empty, Facts, Loading, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";

const PER_PAGE = 25;
const NEWEST = 2 ** 53 - 1;
const STATES = [["", "any"], ["moving", "going on"], ["done", "done"], ["submitted", "handed to a job"], ["failed", "failed"], ["abandoned", "given up by the caller"], ["interrupted", "interrupted"]];
const WORDS = Object.fromEntries(STATES);
const KINDS = { abandoned: "failed", interrupted: "failed", submitted: "done", moving: "Running" };

const whatOf = (request) => [request.PatientID, request.AccessionNumber, request.StudyInstanceUID, request.SeriesInstanceUID, request.SOPInstanceUID].filter(Boolean);
const imagesOf = (row) => (row.Instances ? `${number(row.Completed ?? 0)} of ${number(row.Instances)}` : "–");

function One({ row }) {
  return html`<section class="card" aria-labelledby="one-title">
    <div class="title-row"><h2 id="one-title">Request ${row.ID} to <${Text}>${row.Request.TargetAET}<//></h2><${State} of=${KINDS[row.State] ?? row.State} label=${WORDS[row.State]} /></div>
    <${Problem} error=${row.Error} />
    <${Facts} of=${[
      ["Asked by", html`<${Text}>${row.Request.OriginatorAET || "–"}<//>`],
      ["Level", row.Request.Level],
      ...whatOf(row.Request).map((each, index) => [index ? "and" : "What", html`<${Text}>${each}<//>`]),
      ["Images", imagesOf(row)],
      ["Begun", html`<${Time} at=${row.Created} />`],
      ["Ended", row.Ended && html`<${Time} at=${row.Ended} />`],
    ]} />
    ${row.Notifications.length ? html`<h3>Notified</h3><ul>${row.Notifications.map((each) => html`<li><${Text}>${each.Service}<//>: <${State} of=${each.State} /> <${Text}>${each.Error ?? ""}<//></li>`)}</ul>` : null}
  </section>`;
}

function Services({ services, refresh }) {
  const { act } = useContext(Shared);
  const rows = Object.entries(services);
  if (!rows.length) {
    return null;
  }
  const forget = (name, each) =>
    act({
      title: `Drop what waits for ${name}?`,
      says: `${name} is not configured any more. ${counted(each.Waiting + each.Dead, "notification is", "notifications are")} dropped.`,
      button: "Drop",
      danger: true,
      done: refresh,
      run: async () => {
        await drop(`/cmove-interceptor/services/${encodeURIComponent(name)}`);
        return `What waited for ${name} is dropped.`;
      },
    });
  const columns = [
    { title: "Service", of: ([name]) => html`<${Text}>${name}<//>` },
    { title: "State", of: ([, each]) => html`<${State} of=${each.State} />` },
    { title: "Waiting", kind: "number", of: ([, each]) => number(each.Waiting) },
    { title: "Failed", kind: "number", of: ([, each]) => (each.Dead ? html`<strong class="bad">${number(each.Dead)}</strong>` : "0") },
    { title: "", kind: "acts", of: ([name, each]) => (each.State === "orphaned" ? html`<${ActButton} small=${true} danger=${true} label="Drop what waits for ${name}" onClick=${() => forget(name, each)}>Drop<//>` : null) },
  ];
  return html`<section class="plain" aria-labelledby="services-title"><h2 id="services-title">Who is notified</h2><${Table} caption="Services" columns=${columns} rows=${rows} keyOf=${([name]) => name} /></section>`;
}

function View({ place }) {
  const query = place.query;
  const { data: status, error, refresh } = useRoute("/cmove-interceptor/status", 5);
  const path = withQuery("/cmove-interceptor/requests", { state: query.state, limit: PER_PAGE, before: query.before ?? NEWEST });
  const { data, error: failed } = useRoute(path, 4);
  const chosen = data?.Items.find((row) => String(row.ID) === place.parts[0]);
  const at = (more) => link("moves", [], { ...query, ...more });
  const columns = [
    { title: "To", of: (row) => html`<a href=${link("moves", [row.ID], query)}><${Text}>${row.Request.TargetAET}<//></a><small>asked by <${Text}>${row.Request.OriginatorAET || "–"}<//></small>` },
    { title: "What", kind: "long", of: (row) => html`${row.Request.Level}<small><${Text}>${whatOf(row.Request).join(" ")}<//></small>` },
    { title: "State", of: (row) => html`<${State} of=${KINDS[row.State] ?? row.State} label=${WORDS[row.State]} />` },
    { title: "Images", kind: "number", of: imagesOf },
    { title: "Begun", of: (row) => html`<${Time} at=${row.Created} />` },
    { title: "Error", kind: "long", of: (row) => (row.Error ? html`<${Text}>${row.Error}<//>` : html`<span class="quiet none">–</span>`) },
  ];
  return html`<div class="part"><${Problem} error=${error ?? failed} /></div>
    <${Filters} panel="moves" query=${query} fields=${[{ name: "state", title: "State", options: STATES }]} />
    <div class="part">${place.parts[0] && data && !chosen ? html`<p class="quiet">Request <${Text}>${place.parts[0]}<//> is not on this page.</p>` : null}</div>
    <div class="part">${chosen ? html`<${One} row=${chosen} />` : null}</div>
    <div class="part">${!data ? (failed ? null : html`<${Loading} what="requests" />`) : data.Items.length
      ? html`<${Table} caption="C-MOVE requests, newest first" columns=${columns} rows=${data.Items} keyOf=${(row) => row.ID} current=${(row) => row === chosen} />
          <${Pages} total=${data.Total} shown=${data.Items.length} what="requests" newer=${query.before ? at({ before: "" }) : null} older=${data.Next ? at({ before: data.Next }) : null} />`
      : html`<${Empty} title=${query.state ? "Nothing fits this" : "No C-MOVE yet"}>Each request of a workstation to have studies sent is here, with what came of it.<//>`}</div>
    ${status ? html`<${Services} services=${status.Services} refresh=${refresh} />` : null}`;
}

export default {
  id: "moves",
  title: "Moves",
  scripts: ["cmove_interceptor"],
  badge: (summary) => summary.Alerts.filter((each) => each.Panel === "moves").length,
  absent: {
    title: "C-MOVE is Orthanc's own here",
    gives: "cmove_interceptor writes each C-MOVE down, does it, and notifies services. This panel then shows each request: who asked, what was to go where, and what came of it.",
  },
  view: View,
};
