// What is kept and for how long: room left, rules, what the next run takes, what was deleted.

import { html, useContext, useMemo, useState } from "../vendor/preact.js";
import { get, post } from "../lib/api.js";
import { bytes, counted, duration, number } from "../lib/format.js";
import { useRoute } from "../lib/poll.js";
import { day } from "../lib/studies.js";
import { ActButton, Empty, Facts, Figure, Loading, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";

const DAY_SECONDS = 86_400;
const LEAST_HOURS = 1; // of figures, to say how fast the archive grows

/** Return by how many bytes a day the archive has grown, or null: not known yet. */
function growth(day) {
  const known = day.Bytes.findIndex((value) => value > 0);
  const last = day.Minute.length - 1;
  const minutes = known < 0 ? 0 : day.Minute[last] - day.Minute[known];
  return minutes < LEAST_HOURS * 60 ? null : ((day.Bytes[last] - day.Bytes[known]) / minutes) * 60 * 24;
}

function Room({ server }) {
  const { data } = useRoute("/dashboard/flow", 300);
  const pace = useMemo(() => data && growth(data), [data]);
  const left = pace > 0 && server.FreeBytes !== null ? (server.FreeBytes / pace) * DAY_SECONDS : null;
  return html`<div class="figures">
    <${Figure} title="Archive" value=${bytes(server.Bytes)} note="${counted(server.Studies, "study", "studies")}, ${counted(server.Instances, "image", "images")}" />
    <div class="part">${server.FreeBytes !== null ? html`<${Figure} title="Room left" value=${bytes(server.FreeBytes)} kind=${server.FreeBytes / server.RoomBytes < 0.1 ? "bad" : ""} note="of ${bytes(server.RoomBytes)} (${Math.round((server.FreeBytes / server.RoomBytes) * 100)} %)" />` : null}</div>
    <${Figure} title="Growth" value=${pace === null || pace === undefined ? "–" : `${pace < 0 ? "−" : ""}${bytes(Math.abs(pace))}`} unit=${pace === null || pace === undefined ? "" : "a day"} note=${pace === null || pace === undefined ? "known after an hour" : "at the pace of the last day"} />
    <div class="part">${left !== null ? html`<${Figure} title="Full in" value=${duration(left)} kind=${left < 14 * DAY_SECONDS ? "warn" : ""} note="at this pace" />` : null}</div>
  </div>`;
}

/** Numbers by name as bars. */
function Bars({ title, of }) {
  const rows = Object.entries(of);
  const most = Math.max(1, ...rows.map(([, value]) => value));
  return html`<div class="bars-of"><h3>${title}</h3><table class="bars"><tbody>
    ${rows.map(([name, value]) => html`<tr key=${name}><th scope="row"><${Text}>${name}<//></th><td><meter min="0" max=${most} value=${value} aria-label="${number(value)} studies"></meter></td><td class="number">${number(value)}</td></tr>`)}
  </tbody></table></div>`;
}

function Answer({ of: found }) {
  return html`
    <${Facts} of=${[
      ["Studies", number(found.Studies)],
      ["Size", bytes(found.Bytes)],
      ["Dated until", found.Since && html`<${Text}>${day(found.Since)}<//>`],
      ["Came in within 7 days", found.ReceivedWithin7Days ? number(found.ReceivedWithin7Days) : null],
      ["Why", found.Why && html`<${Text}>${found.Why}<//>`],
      ["Left out, for they are not delivered", found.Undelivered && html`<${Text}>${Object.entries(found.Undelivered).map(([why, count]) => `${count}: ${why}`).join("; ")}<//>`],
    ]} />
    <div class="part">${found.Refused ? html`<p class="problem">A guard refuses it: <${Text}>${found.Refused}<//></p>` : null}</div>
    ${found.Studies ? html`<div class="two">${found.Years ? html`<${Bars} title="Studies by year" of=${found.Years} />` : null}${found.Modalities ? html`<${Bars} title="Studies by modality" of=${found.Modalities} />` : null}</div>` : null}`;
}

/** A dry run on demand: it reads the archive, so it is never made by itself. */
function DryRun({ title, note, run }) {
  const [state, setState] = useState({ busy: false, found: null, error: null });
  async function start() {
    setState({ busy: true, found: null, error: null });
    try {
      setState({ busy: false, found: await run(), error: null });
    } catch (error) {
      setState({ busy: false, found: null, error });
    }
  }
  return html`<div>
    <p class="buttons"><button type="button" disabled=${state.busy} onClick=${start}>${state.busy ? "Counting …" : title}</button> <span class="quiet">${note}</span></p>
    <div aria-live="polite"><${Problem} error=${state.error} />${state.found ? html`<${Answer} of=${state.found} />` : null}</div>
  </div>`;
}

const UNITS = { d: ["day", "days"], m: ["month", "months"], y: ["year", "years"] };
const UNDATED = { received: "For one without a valid date, the day when it came in counts.", true: "Those without a valid date go too, whatever their age.", false: "Those without a valid date stay." };

/** Return an age of a rule (`7y`) as `7 years`. */
function age(text) {
  const [, value, unit] = /^(\d+)([dmy])$/.exec(text) ?? [];
  return value ? counted(Number(value), ...UNITS[unit]) : text;
}

const list = (values, last) => (values.length < 2 ? values.join("") : `${values.slice(0, -1).join(", ")} ${last} ${values.at(-1)}`);

/** Return the conditions of a rule that deletes, as sentences. */
export function sentences(found) {
  const by = found.WhenDiskAbove ? found.OldestBy : found.By;
  const labels = { All: "with the label", Any: "with one of the labels", None: "without the label" }[found.LabelsConstraint];
  const which = [
    `${by === "received" ? "that last changed" : "dated"} ${age(found.OlderThan)} ago or earlier`,
    ...Object.entries(found.Query ?? {}).map(([tag, value]) => `whose ${tag} is ${list(value.split("\\"), "or")}`),
    found.Labels ? `${labels} ${list(found.Labels, found.LabelsConstraint === "All" ? "and" : "or")}` : "",
    found.OnlyIfAt ? `that ${list(found.OnlyIfAt, "and")} can prove to have (DICOM nodes by ${found.Proof})` : "",
  ].filter(Boolean);
  const days = found.Days?.length === 7 ? "every day" : `on ${list(found.Days ?? [], "and")}`;
  const when = found.WhenDiskAbove ? `while the disk is above ${found.WhenDiskAbove}, until it is down to ${found.DownTo}: the oldest first` : `${days} at ${found.At}`;
  const most = found.WhenDiskAbove ? `At most ${counted(found.AtMost, "study", "studies")} each time.` : found.Limit ? `At most ${counted(found.Limit, "study", "studies")} a run, the oldest first.` : "";
  return [`Deletes studies ${which.join(", ")}; ${when}.`, most, UNDATED[found.Undated] ?? ""].filter(Boolean).join(" ");
}

function Rule({ rule }) {
  const last = rule.Last;
  return html`<section class="card" aria-label="Rule ${rule.Name}">
    <div class="title-row"><h2><${Text}>${rule.Name}<//></h2>${rule.Next ? html`<span class="quiet">next run <${Time} at=${rule.Next} /> (<${Time} at=${rule.Next} relative=${true} />)</span>` : null}</div>
    ${rule.Conditions ? html`<p><${Text}>${sentences(rule.Conditions)}<//></p>` : null}
    <p>${last ? html`Last run <${Time} at=${last.Time} />: <${State} of=${last.State} /> ${last.Deleted !== undefined ? `${counted(last.Deleted, "study", "studies")} deleted` : ""} <${Text}>${last.Reason ?? ""}<//>` : html`<span class="quiet">It has not run yet.</span>`}</p>
    <${DryRun} title="What would it take now?" note="A dry run: nothing is deleted." run=${() => get(`/purge-old-studies/rules/${encodeURIComponent(rule.Name)}/dry-run`)} />
  </section>`;
}

const Rules = ({ rules }) =>
  rules.length
    ? rules.map((rule) => html`<${Rule} key=${rule.Name} rule=${rule} />`)
    : html`<${Empty} title="No rule deletes by itself">A rule in <code>PurgeOldStudies</code> deletes studies of an age at a time of day, or when the disk is full.<//>`;

const today = () => new Date().toISOString().slice(0, 10).replaceAll("-", "");

function Purges() {
  const { act } = useContext(Shared);
  const { data, error, refresh } = useRoute("/purge-old-studies/jobs?limit=1000", 5);
  if (!data) {
    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="purges" />`;
  }
  const rows = [...data.Items].reverse().slice(0, 20);
  const cancel = (row) =>
    act({
      title: `Cancel purge ${row.ID}?`,
      says: "It stops after what it is deleting at the moment. What is deleted stays deleted.",
      button: "Cancel the purge",
      danger: true,
      done: refresh,
      run: async () => {
        await post(`/purge-old-studies/jobs/${row.ID}/cancel`);
        return `Purge ${row.ID} is cancelled.`;
      },
    });
  const columns = [
    { title: "Purge", of: (row) => html`${row.ID}<small><${Text}>${row.Rule ? `rule ${row.Rule}` : row.User ? `by ${row.User}` : "asked for"}<//></small>` },
    { title: "State", of: (row) => html`<${State} of=${row.State} />` },
    { title: "Begun", of: (row) => html`<${Time} at=${row.Created} />` },
    { title: "Deleted", kind: "number", of: (row) => number(row.Deleted) },
    { title: "Kept", kind: "number", of: (row) => number(row.Kept) },
    { title: "Failed", kind: "number", of: (row) => (row.Failed ? html`<strong class="bad">${number(row.Failed)}</strong>` : "0") },
    { title: "", kind: "acts", of: (row) => (row.State === "running" ? html`<${ActButton} small=${true} danger=${true} label="Cancel purge ${row.ID}" onClick=${() => cancel(row)}>Cancel<//>` : null) },
  ];
  return rows.length ? html`<${Table} caption="Purges, newest first" columns=${columns} rows=${rows} keyOf=${(row) => row.ID} />` : html`<${Empty} title="Nothing was purged yet" />`;
}

function Clock({ clock, refresh }) {
  const { act } = useContext(Shared);
  if (!clock || clock.State === "right") {
    return null;
  }
  const confirm = () =>
    act({
      title: "Is the server's clock right?",
      says: `It shows ${clock.Now}; ${clock.Expected} was expected. If you confirm it, rules delete by this clock again. If it is wrong, set it right instead.`,
      button: "The clock is right",
      danger: true,
      done: refresh,
      run: async () => {
        await post("/purge-old-studies/confirm-clock");
        return "The clock is confirmed.";
      },
    });
  return html`<div class="problem" role="alert"><${Text}>${clock.Message}<//> <${ActButton} small=${true} onClick=${confirm}>Confirm the clock<//></div>`;
}

/** What a POST counts: for who may act only, though it deletes nothing. */
function Holds() {
  const { mayAct } = useContext(Shared);
  return mayAct
    ? html`<section aria-labelledby="by-year"><h2 id="by-year">What the archive holds</h2>
        <${DryRun} title="Count by year and modality" note="It reads the whole archive once: of 5,000 studies in about a second. Nothing is deleted." run=${() => post("/purge-old-studies", { since: today(), undated: true, "dry-run": true, force: true, format: "json" })} />
      </section>`
    : null;
}

function View({ summary }) {
  const { data: status, error, refresh } = useRoute("/purge-old-studies/status", 5);
  return html`
    <${Room} server=${summary.Server} />
    <div class="part"><${Problem} error=${error} /></div>
    <div class="part">${status ? html`<${Clock} clock=${status.Clock} refresh=${refresh} />` : null}</div>
    <div class="part">${status ? html`<${Rules} rules=${status.Rules} />` : error ? null : html`<${Loading} what="rules" />`}</div>
    <div class="part"><${Holds} /></div>
    <section class="plain" aria-labelledby="purges-title"><h2 id="purges-title">Purges</h2><${Purges} /></section>`;
}

export default {
  id: "retention",
  title: "Retention",
  scripts: ["purge_old_studies"],
  absent: {
    title: "Nothing is deleted by age here",
    gives: "With purge_old_studies, this panel shows how much room is left, which rules delete what and when, what the next run would take, and what was deleted.",
  },
  view: View,
};
