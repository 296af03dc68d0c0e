// Orthanc's own jobs: what runs, how far it is, what failed; pause, resume, cancel, run again.

import { html, useContext } from "../vendor/preact.js";
import { post } from "../lib/api.js";
import { counted, duration, number } from "../lib/format.js";
import { useRoute } from "../lib/poll.js";
import { link } from "../lib/router.js";
import { newestFirst } from "../lib/studies.js";
import { ActButton, Empty, Facts, Loading, Problem, Progress, Shared, State, Table, Text, Time } from "../lib/ui.js";

const ORDER = ["Running", "Paused", "Retry", "Pending", "Failure", "Success"];
const WORDS = { Running: "runs", Paused: "paused", Retry: "tries again", Pending: "waits", Failure: "failed", Success: "done" };
const SHOWN = 100;
const VERBS = {
  pause: { title: "Pause", says: "It stops where it is, and goes on from there when somebody resumes it.", came: "is paused" },
  resume: { title: "Resume", says: "It goes on from where it is.", came: "goes on" },
  cancel: { title: "Cancel", says: "It ends. What it has done already stays done.", came: "is cancelled", danger: true },
  resubmit: { title: "Run again", says: "It begins again from the start, with the same content.", came: "was submitted again" },
};
const MAY = { Running: ["pause", "cancel"], Pending: ["pause", "cancel"], Retry: ["cancel"], Paused: ["resume", "cancel"], Failure: ["resubmit"] };

function Buttons({ job, refresh, small = true }) {
  const { act } = useContext(Shared);
  const ask = (verb) =>
    act({
      title: `${VERBS[verb].title} ${job.Type}?`,
      says: `${VERBS[verb].says} (Job ${job.ID})`,
      button: VERBS[verb].title === "Cancel" ? "Cancel the job" : VERBS[verb].title,
      danger: VERBS[verb].danger,
      done: refresh,
      run: async () => {
        await post(`/jobs/${encodeURIComponent(job.ID)}/${verb}`);
        return `The job ${VERBS[verb].came}.`;
      },
    });
  return html`<span class="buttons">${(MAY[job.State] ?? []).map((verb) => html`<${ActButton} key=${verb} small=${small} danger=${VERBS[verb].danger} label="${VERBS[verb].title} job ${job.ID}" onClick=${() => ask(verb)}>${VERBS[verb].title}<//>`)}</span>`;
}

const targetOf = ({ Content: content = {} }) => content.RemoteAet ?? content.Peer ?? content.Server ?? content.TargetAet ?? "";

function One({ job, refresh }) {
  const content = job.Content ?? {};
  return html`<section class="card" aria-labelledby="one-title">
    <div class="title-row"><h2 id="one-title"><${Text}>${job.Type}<//></h2><${State} of=${job.State} label=${WORDS[job.State]} /></div>
    <div class="part">${job.State === "Failure" ? html`<${Problem} error=${[job.ErrorDescription, job.ErrorDetails].filter(Boolean).join(": ")} />` : null}</div>
    <p><${Progress} value=${job.Progress} label="Progress of the job" /></p>
    <${Facts} of=${[
      ["To", targetOf(job) && html`<${Text}>${targetOf(job)}<//>`],
      ["Description", content.Description && html`<${Text}>${content.Description}<//>`],
      ["Images", content.InstancesCount !== undefined ? number(content.InstancesCount) : null],
      ["Images that failed", content.FailedInstancesCount ? number(content.FailedInstancesCount) : null],
      ["Priority", number(job.Priority)],
      ["Submitted", html`<${Time} at=${job.CreationTime} />`],
      ["Has run for", job.EffectiveRuntime !== undefined ? duration(job.EffectiveRuntime) : null],
      ["Ends", job.EstimatedTimeOfArrival && html`<${Time} at=${job.EstimatedTimeOfArrival} />`],
      ["Ended", job.CompletionTime && html`<${Time} at=${job.CompletionTime} />`],
      ["Identifier", html`<${Text}>${job.ID}<//>`],
    ]} />
    <${Buttons} job=${job} refresh=${refresh} small=${false} />
  </section>`;
}

function View({ place }) {
  const { data, error, refresh } = useRoute("/jobs?expand", 2);
  if (!data) {
    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="jobs" />`;
  }
  const rank = (job) => ORDER.indexOf(job.State);
  const every = [...data].sort((one, other) => rank(one) - rank(other) || newestFirst(one.CompletionTime ?? one.CreationTime, other.CompletionTime ?? other.CreationTime));
  const chosen = every.find((job) => job.ID === place.parts[0]);
  const columns = [
    { title: "Job", of: (job) => html`<a href=${link("jobs", [job.ID])}><${Text}>${job.Type}<//></a>${targetOf(job) ? html`<small>to <${Text}>${targetOf(job)}<//></small>` : null}` },
    { title: "State", of: (job) => html`<${State} of=${job.State} label=${WORDS[job.State]} />` },
    { title: "Progress", of: (job) => html`<${Progress} value=${job.Progress} label="Progress of job ${job.ID}" />` },
    { title: "Submitted", of: (job) => html`<${Time} at=${job.CreationTime} />` },
    { title: "Error", kind: "long", of: (job) => (job.State === "Failure" ? html`<${Text}>${job.ErrorDetails || job.ErrorDescription}<//>` : html`<span class="quiet none">–</span>`) },
    { title: "", kind: "acts", of: (job) => html`<${Buttons} job=${job} refresh=${refresh} />` },
  ];
  const unfinished = every.filter((job) => rank(job) < ORDER.indexOf("Failure")).length;
  return html`<div class="part"><${Problem} error=${error} /></div>
    <p class="quiet">${counted(unfinished, "job runs or waits", "jobs run or wait")}. Of those that ended, Orthanc remembers only the last ones (<code>JobsHistorySize</code>).</p>
    <div class="part">${place.parts[0] && !chosen ? html`<p class="problem">Orthanc has forgotten this job: it ended a while ago.</p>` : null}</div>
    <div class="part">${chosen ? html`<${One} job=${chosen} refresh=${refresh} />` : null}</div>
    <div class="part">${every.length
      ? html`<${Table} caption="Orthanc's jobs" columns=${columns} rows=${every.slice(0, SHOWN)} keyOf=${(job) => job.ID} current=${(job) => job === chosen} />
          ${every.length > SHOWN ? html`<p class="quiet">The first ${number(SHOWN)} of ${number(every.length)} are shown.</p>` : null}`
      : html`<${Empty} title="No jobs">Sending, moving and making archives are jobs: each shows up here with its progress.<//>`}</div>`;
}

export default { id: "jobs", title: "Jobs", view: View };
