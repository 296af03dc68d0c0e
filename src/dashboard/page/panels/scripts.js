// The scripts of this Orthanc: whether each runs, in which version, and what Orthanc has called it for.

import { html } from "../vendor/preact.js";
import { address } from "../lib/api.js";
import { counted, number } from "../lib/format.js";
import { link } from "../lib/router.js";
import { Facts, Problem, State, Table, Text, Time } from "../lib/ui.js";

const stateOf = (each) => (each.State === "running" && each.Reason ? "waiting" : each.State);
const wordOf = (each) => (each.State === "running" && each.Reason ? "runs, with trouble" : each.State);

function One({ each }) {
  const calls = each.Callbacks;
  return html`<section class="card" aria-labelledby="one-title">
    <div class="title-row"><h2 id="one-title"><${Text}>${each.Name}<//></h2><${State} of=${stateOf(each)} label=${wordOf(each)} /></div>
    <div class="part">${each.Healthy ? (each.Reason ? html`<p class="quiet"><${Text}>${each.Reason}<//></p>` : null) : html`<${Problem} error=${each.Reason} />`}</div>
    <${Facts} of=${[
      ["Version", each.Version && html`<${Text}>${each.Version}<//>`],
      ["Since", each.Since && html`<${Time} at=${each.Since} />`],
      ["Calls by Orthanc", calls && number(calls.Calls)],
      ["Time in them", calls && `${number(calls.Seconds)} s`],
      ["Errors in them", calls && number(calls.Errors)],
      ["Last error", each.LastError && html`<${Text}>${each.LastError.Text}<//> (<${Time} at=${each.LastError.Time} />)`],
      ...Object.entries(each.Totals).map(([name, value]) => [html`<${Text}>${name}<//>`, number(value)]),
    ]} />
    ${each.Status ? html`<p><a href=${address(each.Status)}>Its status as JSON</a>${each.Routes ? html` · <a href=${address(each.Routes)}>Its routes</a>` : null}</p>` : null}
  </section>`;
}

function View({ summary, place }) {
  const every = summary.Scripts;
  const chosen = every.find((each) => each.Name === place.parts[0]);
  const counts = every.some((each) => each.Callbacks);
  const columns = [
    { title: "Script", of: (each) => html`<a href=${link("scripts", [each.Name])}><${Text}>${each.Name}<//></a>` },
    { title: "State", of: (each) => html`<${State} of=${stateOf(each)} label=${wordOf(each)} />${each.Since ? html`<small>since <${Time} at=${each.Since} /></small>` : null}` },
    { title: "Version", of: (each) => (each.Version ? html`<${Text}>${each.Version}<//>` : html`<span class="quiet none">–</span>`) },
    ...(counts
      ? [
          { title: "Calls", kind: "number", of: (each) => number(each.Callbacks?.Calls) },
          { title: "Mean time", kind: "number", of: (each) => (each.Callbacks?.Calls ? `${((each.Callbacks.Seconds / each.Callbacks.Calls) * 1000).toFixed(2)} ms` : "–") },
          { title: "Errors", kind: "number", of: (each) => number(each.Callbacks?.Errors) },
        ]
      : []),
    { title: "What it says", kind: "long", of: (each) => (each.Reason ? html`<${Text}>${each.Reason}<//>` : html`<span class="quiet none">–</span>`) },
  ];
  const well = every.filter((each) => each.Healthy).length;
  return html`<p class="quiet">${counted(every.length, "script", "scripts")}, ${well === every.length ? "all well" : `${number(well)} of them well`}.</p>
    <div class="part">${chosen ? html`<${One} each=${chosen} />` : null}</div>
    <${Table} caption="Scripts" columns=${columns} rows=${every} keyOf=${(each) => each.Name} current=${(each) => each === chosen} />`;
}

export default {
  id: "scripts",
  title: "Scripts",
  badge: (summary) => summary.Scripts.filter((each) => !each.Healthy).length,
  view: View,
};
