// De-identified copies: what was made, what waits, what failed; images that were held back, each with the reason.

import { html, useContext } from "../vendor/preact.js";
import { address, drop, post, withQuery } from "../lib/api.js";
import { counted, number } from "../lib/format.js";
import { Filters, Pages } from "../lib/list.js";
import { useRoute } from "../lib/poll.js";
import { link } from "../lib/router.js";
import { ActButton, Empty, Figure, Loading, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";

const ROUTE = "/anonymize-series";
const PER_PAGE = 25;
const NEWEST = 2 ** 53 - 1;
const STATES = [["", "any"], ["waiting", "waiting"], ["sending", "being done"], ["done", "done"], ["dead", "failed for good"], ["gone", "deleted here"]];
const LABELS = { ...Object.fromEntries(STATES), partly: "done, but for what was held back" };

function useJobActs(refresh) {
  const { act } = useContext(Shared);
  return {
    retry: (row) =>
      act({
        title: `Retry ${row.ID}?`,
        says: `The work (${row.What}, ${counted(row.Instances, "image", "images")}) is tried again now. Each copy gets the same identifiers as before.`,
        button: "Retry",
        done: refresh,
        run: async () => {
          await post(`${ROUTE}/jobs/${row.ID}/retry`);
          return `${row.ID} is being tried again.`;
        },
      }),
    forget: (row) =>
      act({
        title: `Drop ${row.ID}?`,
        says: `This work (${row.What}) is not done any more. Nothing is deleted from the archive.`,
        button: "Drop",
        danger: true,
        done: refresh,
        run: async () => {
          await drop(`${ROUTE}/jobs/${row.ID}`);
          return `${row.ID} is dropped.`;
        },
      }),
  };
}

function Jobs({ place, data, error, refresh }) {
  const { retry, forget } = useJobActs(refresh);
  const query = place.query;
  if (!data) {
    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="the work" />`;
  }
  const at = (more) => link("deidentification", [], { ...query, ...more });
  const columns = [
    { title: "What", of: (row) => html`<a href=${link("deidentification", [row.ID], query)}>${row.ID}</a> <${Text}>${row.What}<//><small><${Text}>${row.Resource}<//></small>` },
    { title: "State", of: (row) => html`<${State} of=${row.State === "partly" ? "done" : row.State} label=${LABELS[row.State]} />` },
    { title: "Images", kind: "number", of: (row) => html`${number(row.Instances)}${row.HeldBack ? html`<small>${number(row.HeldBack)} held back</small>` : null}` },
    { title: "Last change", of: (row) => html`<${Time} at=${row.Updated} />` },
    { title: "Error", kind: "long", of: (row) => (row.Error ? html`<${Text}>${row.Error}<//><small>${counted(row.Attempts, "attempt", "attempts")}</small>` : html`<span class="quiet none">–</span>`) },
    {
      title: "",
      kind: "acts",
      of: (row) => (row.State === "dead" || row.State === "waiting"
        ? html`<span class="buttons"><${ActButton} small=${true} label="Retry ${row.ID}" onClick=${() => retry(row)}>Retry<//><${ActButton} small=${true} danger=${true} label="Drop ${row.ID}" onClick=${() => forget(row)}>Drop<//></span>`
        : null),
    },
  ];
  return data.Items.length
    ? html`<${Table} caption="De-identification, newest first" columns=${columns} rows=${data.Items} keyOf=${(row) => row.ID} current=${(row) => String(row.ID) === place.parts[0]} />
        <${Pages} total=${data.Total} shown=${data.Items.length} what="pieces of work" newer=${query.before ? at({ before: "" }) : null} older=${data.Next ? at({ before: data.Next }) : null} />`
    : html`<${Empty} title=${query.state ? "Nothing fits this" : "Nothing was de-identified yet"}>A rule or a request makes copies: each shows up here.<//>`;
}

function Held({ place }) {
  const { held } = place.query;
  const { data, error } = useRoute(withQuery(`${ROUTE}/held`, { since: held, limit: PER_PAGE }), 10);
  if (!data) {
    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="images that were held back" />`;
  }
  const columns = [
    { title: "Image", of: (row) => html`<a href=${address(`/app/explorer.html#instance?uuid=${row.Instance}`)}><${Text}>${row.Instance.slice(0, 17)}…<//></a>` },
    { title: "Recipe", of: (row) => html`<${Text}>${row.Recipe}<//>` },
    { title: "Why", kind: "long", of: (row) => html`<${Text}>${row.Reason}<//>` },
    { title: "When", of: (row) => html`<${Time} at=${row.At} />` },
  ];
  return data.Items.length || held
    ? html`<${Table} caption="Images that were held back, oldest first" columns=${columns} rows=${data.Items} keyOf=${(row) => row.ID} />
        <nav class="pages" aria-label="Pages of images that were held back"><span class="quiet">${number(data.Items.length)} of ${number(data.Total)} images</span>
          ${held ? html`<a class="button" href=${link("deidentification", [], { ...place.query, held: "" })}>First</a>` : null}
          ${data.Next ? html`<a class="button" href=${link("deidentification", [], { ...place.query, held: data.Next })}>Next</a>` : null}</nav>`
    : html`<${Empty} title="No image was held back">An image that may show who the patient is gets no copy. It shows up here, with the reason.<//>`;
}

function View({ place }) {
  const { data: status, error, refresh } = useRoute(`${ROUTE}/status`, 5);
  const { state, before } = place.query;
  const jobs = useRoute(withQuery(`${ROUTE}/jobs`, { state, limit: PER_PAGE, before: before ?? NEWEST }), 5);
  const both = () => {
    refresh();
    jobs.refresh();
  };
  return html`<div class="part"><${Problem} error=${error} /></div>
    <div class="part">${status
      ? html`<div class="figures">
          <${Figure} title="Copies" value=${number(status.Copies)} note="images" />
          <${Figure} title="Waiting" value=${number((status.Totals.waiting ?? 0) + (status.Totals.sending ?? 0))} note="pieces of work" />
          <${Figure} title="Failed for good" value=${number(status.Totals.dead)} kind=${status.Totals.dead ? "bad" : ""} note="a person has to act" href=${link("deidentification", [], { state: "dead" })} />
          <${Figure} title="Held back" value=${number(status.Held)} kind=${status.Held ? "warn" : ""} note="images, with the reason below" />
        </div>`
      : null}</div>
    <${Filters} panel="deidentification" query=${place.query} fields=${[{ name: "state", title: "State", options: STATES }]} />
    <div class="part"><${Jobs} place=${place} data=${jobs.data} error=${jobs.error} refresh=${both} /></div>
    <section class="plain" aria-labelledby="held-title"><h2 id="held-title">Held back</h2><${Held} place=${place} /></section>`;
}

export default {
  id: "deidentification",
  title: "De-identification",
  scripts: ["anonymize_series"],
  badge: (summary) => summary.Alerts.filter((each) => each.Panel === "deidentification" && each.Level === "act").length,
  absent: {
    title: "Nothing is de-identified here",
    gives: "anonymize_series makes de-identified copies by rules and sends them on. This panel then shows the work, what failed, and each image that was held back with the reason.",
  },
  view: View,
};
