// Where studies are sent: up or away since when, what waits, what went wrong; pause, resume, retry all.

import { html, useContext } from "../vendor/preact.js";
import { post } from "../lib/api.js";
import { counted, number } from "../lib/format.js";
import { link } from "../lib/router.js";
import { ActButton, Empty, Facts, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";

const SCRIPTS = ["auto_forward_modality", "auto_forward_peer", "auto_forward_dicomweb"];
const KIND = { auto_forward_modality: "DICOM node", auto_forward_peer: "Orthanc peer", auto_forward_dicomweb: "DICOMweb server" };

function usePauses() {
  const { act } = useContext(Shared);
  const path = (each, verb) => `${each.Route}/destinations/${encodeURIComponent(each.Name)}/${verb}`;
  return {
    pause: (each) =>
      act({
        title: `Pause ${each.Name}?`,
        says: `Nothing more is sent to ${each.Name} until somebody resumes it, also after a restart. What arrives meanwhile waits. What is being sent now goes on.`,
        button: "Pause",
        run: async () => {
          await post(path(each, "pause"));
          return `${each.Name} is paused.`;
        },
      }),
    resume: (each) =>
      act({
        title: `Resume ${each.Name}?`,
        says: `${counted(each.Totals.waiting ?? 0, "delivery", "deliveries")} to ${each.Name} can be sent again, the oldest first.`,
        button: "Resume",
        run: async () => {
          await post(path(each, "resume"));
          return `${each.Name} is resumed.`;
        },
      }),
    retry: (each) =>
      act({
        title: `Retry all that failed to ${each.Name}?`,
        says: `${counted(each.Totals.dead, "delivery that was given up is", "deliveries that were given up are")} tried again now, with the whole time until they are given up.`,
        button: "Retry all",
        run: async () => {
          const { Retried: retried } = await post(`${each.Route}/deliveries/retry`, { Destination: each.Name });
          return `${counted(retried, "delivery waits", "deliveries wait")} to be sent to ${each.Name} again.`;
        },
      }),
  };
}

function Buttons({ of: each, small = true }) {
  const { pause, resume, retry } = usePauses();
  return html`<span class="buttons">
    <div class="part">${each.Totals.dead ? html`<${ActButton} small=${small} onClick=${() => retry(each)} label="Retry all that failed to ${each.Name}">Retry all<//>` : null}</div>
    ${each.State === "paused"
      ? html`<${ActButton} small=${small} onClick=${() => resume(each)} label="Resume ${each.Name}">Resume<//>`
      : html`<${ActButton} small=${small} onClick=${() => pause(each)} label="Pause ${each.Name}">Pause<//>`}
  </span>`;
}

const rateOf = (each) => (each.LastMinute ? counted(each.LastMinute, "delivery", "deliveries") : "none");

function One({ each }) {
  return html`<section class="card" aria-labelledby="one-title">
    <div class="title-row"><h2 id="one-title"><${Text}>${each.Name}<//></h2><${State} of=${each.State} /></div>
    <div class="part"><${Problem} error=${each.Error} /></div>
    <${Facts} of=${[
      ["Kind", KIND[each.Script] ?? each.Script],
      ["Since", each.Since && html`<${Time} at=${each.Since} /> (<${Time} at=${each.Since} relative=${true} />)`],
      ["Waiting", each.Totals.waiting ? html`<a href=${link("deliveries", [each.Script], { state: "waiting", destination: each.Name })}>${number(each.Totals.waiting)}</a>` : "0"],
      ["Being sent", number(each.Totals.sending)],
      ["Failed for good", each.Totals.dead ? html`<a href=${link("deliveries", [each.Script], { state: "dead", destination: each.Name })}>${number(each.Totals.dead)}</a>` : "0"],
      ["Delivered", number(each.Totals.done)],
      ["Delivered in the last minute", rateOf(each)],
      ["Slow", each.Slow && html`<${Text}>${typeof each.Slow === "string" ? each.Slow : JSON.stringify(each.Slow)}<//>`],
    ]} />
    <${Buttons} of=${each} small=${false} />
  </section>`;
}

function View({ summary, place }) {
  const every = summary.Destinations;
  if (!every.length) {
    return html`<${Empty} title="No destination yet">Name one in <code>DicomModalities</code>, <code>OrthancPeers</code> or <code>DicomWeb</code> of Orthanc's configuration: what is sent there, and whether it arrives, shows up here.<//>`;
  }
  const [script, name] = place.parts;
  const chosen = every.find((each) => each.Script === script && each.Name === name);
  const columns = [
    { title: "Destination", of: (each) => html`<a href=${link("destinations", [each.Script, each.Name])}><${Text}>${each.Name}<//></a><small>${KIND[each.Script] ?? each.Script}</small>` },
    { title: "State", of: (each) => html`<${State} of=${each.State} />${each.Since ? html`<small>since <${Time} at=${each.Since} /></small>` : null}` },
    { title: "Waiting", kind: "number", of: (each) => number((each.Totals.waiting ?? 0) + (each.Totals.sending ?? 0)) },
    { title: "Failed", kind: "number", of: (each) => (each.Totals.dead ? html`<a class="bad" href=${link("deliveries", [each.Script], { state: "dead", destination: each.Name })}>${number(each.Totals.dead)}</a>` : "0") },
    { title: "Last minute", kind: "number", of: (each) => number(each.LastMinute) },
    { title: "Last error", kind: "long", of: (each) => (each.Error ? html`<${Text}>${each.Error}<//>` : html`<span class="quiet none">–</span>`) },
    { title: "", kind: "acts", of: (each) => html`<${Buttons} of=${each} />` },
  ];
  return html`<div class="part">${script && !chosen ? html`<p class="problem">There is no destination <${Text}>${name ?? script}<//>.</p>` : null}</div>
    <div class="part">${chosen ? html`<${One} each=${chosen} />` : null}</div>
    <${Table} caption="Destinations" columns=${columns} rows=${every} keyOf=${(each) => `${each.Script}/${each.Name}`} current=${(each) => each === chosen} />`;
}

export default {
  id: "destinations",
  title: "Destinations",
  scripts: SCRIPTS,
  badge: (summary) => summary.Destinations.filter((each) => each.State === "away" || each.State === "misconfigured" || each.Totals.dead).length,
  absent: {
    title: "Nothing is forwarded here",
    gives: "A forwarder sends each study on by rules, writes down what waits, and tries again until it arrives. This panel then shows each destination: up or away, what waits, what failed, with pause, resume and retry.",
  },
  view: View,
};
