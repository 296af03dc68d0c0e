// Whether images flow: what needs a person, the figures of now, the last day.

import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { get } from "../lib/api.js";
import { bytes, counted, duration, number } from "../lib/format.js";
import { Chart } from "../lib/chart.js";
import { usePoll } from "../lib/poll.js";
import { link } from "../lib/router.js";
import { Empty, Figure, Problem, State, Text, Time } from "../lib/ui.js";

const DAY_MINUTES = 24 * 60;
const RANGES = [[60, "1 hour"], [360, "6 hours"], [DAY_MINUTES, "24 hours"]];
const COLUMNS = ["Minute", "Received", "Forwarded", "Waiting", "Failed", "LagSeconds"];

/** Load the last day once, then what is new: a few rows a minute. */
function useDay() {
  const kept = useRef(null);
  return usePoll(async (signal) => {
    const before = kept.current;
    const since = before?.Minute.length ? before.Minute[before.Minute.length - 1] : Math.floor(Date.now() / 60_000) - DAY_MINUTES - 60;
    const found = await get(`/dashboard/flow?since=${since}`, signal);
    if (before && found.Minute.length <= 1) {
      return before;
    }
    const old = before ? before.Minute.filter((minute) => minute < since && minute >= found.Minute[0] - DAY_MINUTES - 60).length : 0;
    const skip = before ? before.Minute.indexOf(since) - old : 0;
    kept.current = Object.fromEntries(COLUMNS.map((name) => [name, [...(before ? before[name].slice(skip, skip + old) : []), ...found[name]]]));
    return kept.current;
  }, 20, "day");
}

/** Return the minutes of a range, none left out: what was not counted is null, and the chart shows a gap. */
function columnsOf(day, minutes) {
  const last = Math.floor(Date.now() / 60_000) - 1;
  const first = last - minutes + 1;
  const times = Array.from({ length: minutes }, (_, index) => (first + index) * 60);
  const received = new Array(minutes).fill(null);
  const forwarded = new Array(minutes).fill(null);
  day.Minute.forEach((minute, index) => {
    if (minute >= first && minute <= last) {
      received[minute - first] = day.Received[index];
      forwarded[minute - first] = day.Forwarded[index];
    }
  });
  return { times, received, forwarded };
}

const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);

function Day() {
  const { data, error } = useDay();
  const [minutes, setMinutes] = useState(DAY_MINUTES);
  const columns = useMemo(() => data && columnsOf(data, minutes), [data, minutes]);
  if (!data) {
    return html`<${Problem} error=${error} />`;
  }
  const [, range] = RANGES.find(([each]) => each === minutes);
  const received = sum(columns.received);
  const forwarded = sum(columns.forwarded);
  return html`<section aria-labelledby="day-title">
    <div class="title-row">
      <h2 id="day-title">The last ${range}</h2>
      <div class="choice" role="group" aria-label="Range">
        ${RANGES.map(([each, title]) => html`<button type="button" aria-pressed=${each === minutes} onClick=${() => setMinutes(each)}>${title}</button>`)}
      </div>
    </div>
    <p class="quiet">${counted(received, "image", "images")} received, ${number(forwarded)} forwarded. Images a minute:</p>
    <${Chart}
      times=${columns.times}
      label="Images a minute in the last ${range}: ${number(received)} received, ${number(forwarded)} forwarded"
      series=${[
        { label: "Received", colour: "--received", values: columns.received, fill: true },
        { label: "Forwarded", colour: "--forwarded", values: columns.forwarded },
      ]} />
    <${Hours} columns=${columns} />
  </section>`;
}

/** The chart as a table, an hour a row. */
function Hours({ columns }) {
  const hours = new Map();
  columns.times.forEach((time, index) => {
    const begin = Math.floor(time / 3600) * 3600;
    const [received, forwarded] = hours.get(begin) ?? [0, 0];
    hours.set(begin, [received + (columns.received[index] ?? 0), forwarded + (columns.forwarded[index] ?? 0)]);
  });
  return html`<details><summary>As a table</summary>
    <table class="narrow"><thead><tr><th scope="col">Hour</th><th scope="col" class="number">Received</th><th scope="col" class="number">Forwarded</th></tr></thead>
      <tbody>${[...hours].reverse().map(([begin, [received, forwarded]]) => html`<tr key=${begin}>
        <th scope="row"><${Time} at=${new Date(begin * 1000).toISOString()} /></th><td class="number">${number(received)}</td><td class="number">${number(forwarded)}</td></tr>`)}</tbody>
    </table>
  </details>`;
}

const Alerts = ({ alerts }) =>
  alerts.length
    ? html`<ul class="alerts">${alerts.map((each) => html`<li key=${each.ID} class=${each.Level}>
        <a href=${link(each.Panel, each.Row, each.Query)}><${Text}>${each.Text}<//></a>
        ${each.Since ? html`<span class="quiet">since <${Time} at=${each.Since} /></span>` : null}
        ${each.Why ? html`<span class="why"><${Text}>${each.Why}<//></span>` : null}
      </li>`)}</ul>`
    : html`<p class="calm">Nothing needs you.</p>`;

function Places({ destinations }) {
  return destinations.length
    ? html`<section aria-labelledby="places-title"><h2 id="places-title">Destinations</h2>
        <ul class="places">${destinations.map((each) => html`<li key=${each.Script + each.Name}><a href=${link("destinations", [each.Script, each.Name])}>
          <span class="place-name"><${Text}>${each.Name}<//></span><${State} of=${each.State} />
          <span class="quiet">${each.Totals.waiting ? `${number(each.Totals.waiting)} waiting` : "nothing waits"}</span></a></li>`)}</ul></section>`
    : null;
}

function View({ summary }) {
  const { Flow: flow, Server: server, Alerts: alerts, Destinations: destinations } = summary;
  const forwards = destinations.length > 0;
  return html`
    <section class="plain" aria-labelledby="needs-title"><h2 id="needs-title" class="hidden">What needs you</h2><${Alerts} alerts=${alerts} /></section>
    <div class="part">${server.Instances === 0
      ? html`<${Empty} title="Ready for the first study">Send one to the AE title <code><${Text}>${server.DicomAet ?? "ORTHANC"}<//></code>${server.DicomPort ? html` at port <code>${String(server.DicomPort)}</code>` : null}, or upload it in Orthanc Explorer: it shows up here within seconds.<//>`
      : null}</div>
    <div class="figures">
      <${Figure} title="Received" value=${number(flow.Received)} unit="images" note="in the last minute" />
      <div class="part">${forwards
        ? html`<${Figure} title="Forwarded" value=${number(flow.Forwarded)} unit="images" note="in the last minute" />
            <${Figure} title="Waiting" value=${number(flow.Waiting + flow.Sending)} unit=${flow.Waiting + flow.Sending === 1 ? "delivery" : "deliveries"} kind=${flow.LagSeconds > 900 ? "warn" : ""}
              note=${flow.LagSeconds ? `the oldest for ${duration(flow.LagSeconds)}` : "nothing waits"} href=${link("deliveries", [], { state: "waiting" })} />
            <${Figure} title="Failed" value=${number(flow.Failed)} unit=${flow.Failed === 1 ? "delivery" : "deliveries"} kind=${flow.Failed ? "bad" : ""}
              note=${flow.Failed ? "given up: they need you" : "none is given up"} href=${link("deliveries", [], { state: "dead" })} />`
        : null}</div>
      <${Figure} title="Archive" value=${number(server.Studies)} unit=${server.Studies === 1 ? "study" : "studies"} note="${bytes(server.Bytes)}, ${counted(server.Instances, "image", "images")}" />
    </div>
    <div class="part"><${Places} destinations=${destinations} /></div>
    <div class="part"><${Day} /></div>`;
}

export default { id: "flow", title: "Flow", view: View };
