// What was sent where, and what came of it: filters, the history of one, retry, drop, send again.

import { html, useContext } from "../vendor/preact.js";
import { address, drop, get, post, withQuery } from "../lib/api.js";
import { beginOf, counted, number } from "../lib/format.js";
import { Filters, Pages } from "../lib/list.js";
import { usePoll, useRoute } from "../lib/poll.js";
import { link } from "../lib/router.js";
import { findStudies, StudyName, Thumbnails } from "../lib/studies.js";
import { ActButton, Empty, Facts, Loading, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";

const SCRIPTS = ["auto_forward_modality", "auto_forward_peer", "auto_forward_dicomweb"];
const TITLES = { auto_forward_modality: "DICOM nodes", auto_forward_peer: "Orthanc peers", auto_forward_dicomweb: "DICOMweb servers" };
const STATES = [["", "any"], ["waiting", "waiting"], ["sending", "being sent"], ["done", "delivered"], ["dead", "failed for good"], ["gone", "deleted here"]];
const LABELS = { done: "delivered" };
const PER_PAGE = 25;
const NEWEST = 2 ** 53 - 1;

const routeOf = (script) => `/${script.replaceAll("_", "-")}/deliveries`;

function useDeliveryActs(script, refresh) {
  const { act } = useContext(Shared);
  const base = routeOf(script);
  return {
    retry: (row) =>
      act({
        title: `Retry delivery ${row.ID}?`,
        says: `It is sent to ${row.Destination} now, with the whole time until it is given up.`,
        button: "Retry",
        done: refresh,
        run: async () => {
          await post(`${base}/${row.ID}/retry`);
          return `Delivery ${row.ID} waits to be sent to ${row.Destination} now.`;
        },
      }),
    forget: (row) =>
      act({
        title: `Drop delivery ${row.ID}?`,
        says: row.State === "done" ? `It was delivered to ${row.Destination}; only this entry is removed. Nothing is deleted from the archive.` : `It is not sent to ${row.Destination} any more. Nothing is deleted from the archive.`,
        button: "Drop",
        danger: true,
        done: refresh,
        run: async () => {
          await drop(`${base}/${row.ID}`);
          return `Delivery ${row.ID} is dropped.`;
        },
      }),
    again: (row) =>
      act({
        title: `Send this ${row.Level.toLowerCase()} to ${row.Destination} again?`,
        says: `All of it that is here now is sent, as a new delivery. ${row.Destination} may have it already: that is harmless.`,
        button: "Send again",
        done: refresh,
        run: async () => {
          const { Deliveries: added } = await post(`/${script.replaceAll("_", "-")}/send`, { Resource: row.Resource, Level: row.Level, Destinations: [row.Destination] });
          return `Delivery ${added.join(", ")} waits to be sent to ${row.Destination}.`;
        },
      }),
  };
}

function Buttons({ row, script, refresh, small = true }) {
  const acts = useDeliveryActs(script, refresh);
  const isSend = row.Destination !== null;
  return html`<span class="buttons">
    <div class="part">${row.State === "dead" || row.State === "waiting" ? html`<${ActButton} small=${small} label="Retry delivery ${row.ID}" onClick=${() => acts.retry(row)}>Retry<//>` : null}</div>
    <div class="part">${!small && isSend && row.State === "done" ? html`<${ActButton} label="Send delivery ${row.ID} again" onClick=${() => acts.again(row)}>Send again<//>` : null}</div>
    ${!small && row.State !== "sending" ? html`<${ActButton} danger=${true} label="Drop delivery ${row.ID}" onClick=${() => acts.forget(row)}>Drop<//>` : null}
  </span>`;
}

function One({ id, script, refresh }) {
  const { data: row, error, refresh: again } = useRoute(`${routeOf(script)}/${encodeURIComponent(id)}`, 3);
  if (!row) {
    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="the delivery" />`;
  }
  const both = () => {
    again();
    refresh();
  };
  return html`<section class="card" aria-labelledby="one-title">
    <div class="title-row"><h2 id="one-title">Delivery ${row.ID} to <${Text}>${row.Destination ?? row.Task}<//></h2><${State} of=${row.State} label=${LABELS[row.State]} /></div>
    <div class="part">${row.State === "done" ? null : html`<${Problem} error=${row.Error} />`}</div>
    <p><${StudyName} id=${row.Study} level=${row.Level} resource=${row.Resource} /></p>
    <div class="part"><${Thumbnails} id=${row.Study} /></div>
    <${Facts} of=${[
      ["What", `${row.Level}${row.Instances === null ? ", all of it" : `, ${counted(row.Instances, "image", "images")}`}`],
      ["Attempts", number(row.Attempts)],
      ["Next attempt", row.NextAttempt && html`<${Time} at=${row.NextAttempt} /> (<${Time} at=${row.NextAttempt} relative=${true} />)`],
      ["Added", html`<${Time} at=${row.Created} />`],
      ["Last change", html`<${Time} at=${row.Updated} />`],
      ["Orthanc's job", row.Job && html`<a href=${link("jobs", [row.Job])}><${Text}>${row.Job.slice(0, 8)}…<//></a>`],
      ["In Orthanc Explorer", row.Study && html`<a href=${address(`/app/explorer.html#study?uuid=${row.Study}`)}>the study</a>`],
    ]} />
    <div class="part">${row.History.length
      ? html`<h3>Failed attempts</h3><ol class="history">${row.History.map((each) => html`<li><${Time} at=${each.At} /> <${Text}>${each.Error}<//></li>`)}</ol>`
      : null}</div>
    <${Buttons} row=${row} script=${script} refresh=${both} small=${false} />
  </section>`;
}

/** Load a page: of all, or of the studies that a search has found, each with its newest deliveries. */
async function load(script, query, signal) {
  const range = { from: beginOf(query.from), to: beginOf(query.to, 1) };
  const filters = { state: query.state, destination: query.destination, ...range, limit: PER_PAGE };
  if (!query.study) {
    return get(withQuery(routeOf(script), { ...filters, before: query.before ?? NEWEST }), signal);
  }
  const studies = await findStudies(query.study);
  const pages = await Promise.all(studies.map((study) => get(withQuery(routeOf(script), { ...filters, study, before: NEWEST }), signal)));
  const items = pages.flatMap((each) => each.Items).sort((one, other) => other.ID - one.ID);
  return { Items: items, Total: pages.reduce((sum, each) => sum + each.Total, 0), Next: null, Studies: studies.length };
}

function View({ summary, place }) {
  const there = SCRIPTS.filter((each) => summary.Scripts.some((one) => one.Name === each && one.State === "running"));
  const used = there.filter((each) => summary.Destinations.some((one) => one.Script === each));
  const [first, id] = place.parts;
  const script = there.includes(first) ? first : used[0] ?? there[0];
  const query = place.query;
  const { data, error, refresh } = usePoll((signal) => (script ? load(script, query, signal) : Promise.resolve(null)), 4, `${script} ${JSON.stringify(query)}`);
  if (!script) {
    return html`<${Empty} title="The forwarders do not run">See <a href=${link("scripts")}>Scripts</a> for why.<//>`;
  }
  const names = [...new Set([...summary.Destinations.filter((each) => each.Script === script).map((each) => each.Name), query.destination].filter(Boolean))];
  const at = (more) => link("deliveries", [script], { ...query, ...more });
  const columns = [
    { title: "Study", of: (row) => html`<a href=${link("deliveries", [script, row.ID], query)}><${StudyName} id=${row.Study} level=${row.Level} resource=${row.Resource} /></a>` },
    { title: "To", of: (row) => html`<${Text}>${row.Destination ?? `(${row.Task})`}<//>` },
    { title: "State", of: (row) => html`<${State} of=${row.State} label=${LABELS[row.State]} />${row.NextAttempt ? html`<small>again <${Time} at=${row.NextAttempt} relative=${true} /></small>` : null}` },
    { title: "Last change", of: (row) => html`<${Time} at=${row.Updated} />` },
    { title: "Error", kind: "long", of: (row) => (row.Error && row.State !== "done" ? html`<${Text}>${row.Error}<//><small>${counted(row.Attempts, "attempt", "attempts")}</small>` : html`<span class="quiet none">–</span>`) },
    { title: "", kind: "acts", of: (row) => html`<${Buttons} row=${row} script=${script} refresh=${refresh} />` },
  ];
  return html`
    <div class="part">${used.length > 1 ? html`<div class="choice" role="group" aria-label="Kind of destination">${used.map((each) => html`<a class="button" href=${link("deliveries", [each])} aria-current=${each === script ? "true" : undefined}>${TITLES[each]}</a>`)}</div>` : null}</div>
    <${Filters} panel="deliveries" parts=${[script]} query=${query} fields=${[
      { name: "state", title: "State", options: STATES },
      { name: "destination", title: "Destination", options: [["", "any"], ...names.map((each) => [each, each])] },
      { name: "study", title: "Patient or study", hint: "PatientID, accession number, UID" },
      { name: "from", title: "Received from", type: "date" },
      { name: "to", title: "Received until", type: "date" },
    ]} />
    <div class="part">${id ? html`<${One} key=${id} id=${id} script=${script} refresh=${refresh} />` : null}</div>
    <div class="part"><${Problem} error=${error} /></div>
    <div class="part">${!data ? (error ? null : html`<${Loading} what="deliveries" />`) : data.Items.length
      ? html`<${Table} caption="Deliveries, newest first" columns=${columns} rows=${data.Items} keyOf=${(row) => row.ID} current=${(row) => String(row.ID) === id} />
          <${Pages} total=${data.Total} shown=${data.Items.length} what="deliveries" newer=${query.before ? at({ before: "" }) : null} older=${data.Next ? at({ before: data.Next }) : null} />`
      : html`<${Empty} title=${Object.values(query).some(Boolean) ? "Nothing fits this" : "Nothing was sent yet"}>${query.study && data.Studies === 0 ? "No study here has this PatientID, accession number or UID." : "A delivery is there from the moment when a rule decides that a study is sent."}<//>`}</div>`;
}

export default {
  id: "deliveries",
  title: "Deliveries",
  scripts: SCRIPTS,
  badge: (summary) => summary.Flow.Failed,
  absent: {
    title: "Nothing is forwarded here",
    gives: "With a forwarder, this panel lists each study that was sent, waits, or failed: with its history, its pictures, and buttons to retry, drop and send again.",
  },
  view: View,
};
