// Who did what to which study: the audit log, searched.

import { html } from "../vendor/preact.js";
import { get, withQuery } from "../lib/api.js";
import { counted, number } from "../lib/format.js";
import { Filters } from "../lib/list.js";
import { usePoll } from "../lib/poll.js";
import { link } from "../lib/router.js";
import { day } from "../lib/studies.js";
import { Empty, Facts, Loading, Problem, Table, Text, Time } from "../lib/ui.js";

const PER_PAGE = 50;
const DAY_MS = 86_400_000;
const TOLD = new Set(["Number", "At", "Event", "Study", "StudyInstanceUID", "Patient", "From", "User", "Script", "Mac"]);

const isoDay = (value) => (/^\d{4}-\d\d-\d\d$/.test(value ?? "") ? value.replaceAll("-", "") : value);

/** Return the first moment of the day after one, in UTC: a search until a day has all of that day. */
function dayAfter(value) {
  const begin = Date.parse(`${day(value)}T00:00:00Z`);
  return Number.isNaN(begin) ? value : new Date(begin + DAY_MS).toISOString();
}

/** Load what is asked for; without a search, the newest lines of today and yesterday, the newest first. */
async function load(query, signal) {
  const { patient, study, event, since, until, after } = query;
  if (patient || study || event || since || until) {
    const asked = { patient, study, event, since: isoDay(since), until: until ? dayAfter(until) : "", after, limit: PER_PAGE };
    return { ...(await get(withQuery("/audit-log", asked), signal)), isSearch: true };
  }
  const { Number: newest } = await get("/audit-log/newest", signal);
  const yesterday = new Date(Date.now() - DAY_MS).toISOString().slice(0, 10).replaceAll("-", "");
  const page = await get(withQuery("/audit-log", { since: yesterday, after: Math.max(0, newest - PER_PAGE), limit: PER_PAGE }), signal);
  return { ...page, Items: page.Items.reverse(), Next: null, isSearch: false };
}

/** Return who is behind a line: a user, an AE title, an address, a script. */
function who({ From: from, User: asked, Script: script }) {
  const { HttpUsername: user, User: other, RemoteAET: aet, RemoteIP: ip } = from ?? {};
  const name = user || other || asked || aet || script;
  return [name, ip].filter(Boolean).join(", ") || from?.Origin || "";
}

const shown = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));

function One({ line }) {
  return html`<section class="card" aria-labelledby="one-title">
    <div class="title-row"><h2 id="one-title">Line ${number(line.Number)}: <${Text}>${line.Event}<//></h2><${Time} at=${line.At} /></div>
    <${Facts} of=${Object.entries(line)
      .filter(([name]) => name !== "Number" && name !== "Event" && name !== "At")
      .map(([name, value]) => [html`<${Text}>${name}<//>`, value === null ? "" : html`<${Text}>${shown(value)}<//>`])} />
  </section>`;
}

function View({ place }) {
  const { query } = place;
  const { data, error } = usePoll((signal) => load(query, signal), 60, JSON.stringify(query));
  const chosen = data?.Items.find((line) => String(line.Number) === place.parts[0]);
  const columns = [
    { title: "When", of: (line) => html`<a href=${link("audit", [line.Number], query)}><${Time} at=${line.At} /></a><small>line ${number(line.Number)}</small>` },
    { title: "What", of: (line) => html`<${Text}>${line.Event}<//>` },
    { title: "Who", of: (line) => (who(line) ? html`<${Text}>${who(line)}<//>` : html`<span class="quiet none">–</span>`) },
    { title: "Patient", of: (line) => (line.Patient ? html`<a href=${link("audit", [], { patient: line.Patient })}><${Text}>${line.Patient}<//></a>` : html`<span class="quiet none">–</span>`) },
    { title: "More", kind: "long", of: (line) => {
      const more = Object.entries(line).filter(([name, value]) => !TOLD.has(name) && value !== null).map(([name, value]) => `${name}: ${shown(value)}`).join(", ");
      return more ? html`<${Text}>${more.slice(0, 300)}<//>` : html`<span class="quiet none">–</span>`;
    } },
  ];
  return html`
    <${Filters} panel="audit" query=${query} fields=${[
      { name: "patient", title: "PatientID" },
      { name: "study", title: "Study", hint: "UID, or Orthanc's identifier" },
      { name: "event", title: "Event", hint: "received, deleted, …" },
      { name: "since", title: "From (UTC)", type: "date" },
      { name: "until", title: "Until (UTC)", type: "date" },
    ]} />
    <div class="part"><${Problem} error=${error} /></div>
    <div class="part">${chosen ? html`<${One} line=${chosen} />` : null}</div>
    <div class="part">${!data ? (error ? null : html`<${Loading} what="the log" />`) : data.Items.length
      ? html`<p class="quiet">${data.isSearch ? `${counted(data.Total, "line fits", "lines fit")}, the oldest first.` : `The newest ${data.Items.length === 1 ? "line" : `${number(data.Items.length)} lines`} of today and yesterday, the newest first.`}</p>
          <${Table} caption="Audit log" columns=${columns} rows=${data.Items} keyOf=${(line) => line.Number} current=${(line) => line === chosen} />
          ${data.Next ? html`<p><a class="button" href=${link("audit", [], { ...query, after: data.Next })}>Next ${number(PER_PAGE)}</a></p>` : null}`
      : html`<${Empty} title=${data.isSearch ? "No line fits this" : "Nothing happened since yesterday"}>${data.isSearch ? "PatientID and study must be written exactly as they are; events are single words." : "Search for earlier days above."}<//>`}</div>`;
}

export default {
  id: "audit",
  title: "Audit log",
  scripts: ["audit_log"],
  absent: {
    title: "There is no audit log here",
    gives: "With audit_log, each line says who received, read, sent, changed or deleted which study, in files that show whether they were tampered with. This panel searches it by patient, study, event and day.",
  },
  view: View,
};
