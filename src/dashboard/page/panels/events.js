// What other software is told: the backlog of each broker, dead letters with their text, retry, and replay.

import { html, useContext, useState } from "../vendor/preact.js";
import { drop, post, withQuery } from "../lib/api.js";
import { bytes, counted, duration, number } from "../lib/format.js";
import { useRoute } from "../lib/poll.js";
import { link } from "../lib/router.js";
import { ActButton, Empty, Facts, Loading, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";

const LETTERS = "/dicom-events/dead-letters";
const PER_PAGE = 25;
const KINDS = { connected: "up" };

function useLetterActs(refresh) {
  const { act } = useContext(Shared);
  return {
    retry: (letter) =>
      act({
        title: `Retry dead letter ${letter.ID}?`,
        says: `The event is published to ${letter.Broker} again now. If the broker refuses it again, it comes back here.`,
        button: "Retry",
        done: refresh,
        run: async () => {
          await post(`${LETTERS}/${letter.ID}/retry`);
          return `Dead letter ${letter.ID} is being published to ${letter.Broker}.`;
        },
      }),
    forget: (letter) =>
      act({
        title: `Drop dead letter ${letter.ID}?`,
        says: `${letter.Broker} never gets this event. Nothing is deleted from the archive.`,
        button: "Drop",
        danger: true,
        done: refresh,
        run: async () => {
          await drop(`${LETTERS}/${letter.ID}`);
          return `Dead letter ${letter.ID} is dropped.`;
        },
      }),
    retryAll: (name, count) =>
      act({
        title: `Retry all dead letters of ${name}?`,
        says: `${counted(count, "event is", "events are")} published to ${name} again now.`,
        button: "Retry all",
        done: refresh,
        run: async () => {
          const { Retried: retried } = await post(`${LETTERS}/retry`, { Broker: name });
          return `${counted(retried, "event is", "events are")} being published to ${name}.`;
        },
      }),
    dropBroker: (name, broker) =>
      act({
        title: `Drop what waits for ${name}?`,
        says: `${name} is not configured any more. ${counted(broker.Backlog, "event that waits", "events that wait")} and ${counted(broker.DeadLetters, "dead letter", "dead letters")} are dropped.`,
        button: "Drop",
        danger: true,
        done: refresh,
        run: async () => {
          await drop(`/dicom-events/brokers/${encodeURIComponent(name)}`);
          return `What waited for ${name} is dropped.`;
        },
      }),
  };
}

function One({ id, refresh }) {
  const { data: letter, error } = useRoute(`${LETTERS}/${encodeURIComponent(id)}`, 10);
  const { retry, forget } = useLetterActs(refresh);
  if (!letter) {
    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="the dead letter" />`;
  }
  return html`<section class="card" aria-labelledby="one-title">
    <div class="title-row"><h2 id="one-title">Dead letter ${letter.ID} of <${Text}>${letter.Broker}<//></h2><${State} of="dead" /></div>
    <${Problem} error=${letter.Error} />
    <${Facts} of=${[
      ["Event", html`<${Text}>${letter.Type}<//>`],
      ["About", html`<${Text}>${letter.Subject}<//>`],
      ["Happened", html`<${Time} at=${letter.Time} />`],
      ["Refused", html`<${Time} at=${letter.Since} /> (<${Time} at=${letter.Since} relative=${true} />)`],
      ["Attempts", number(letter.Attempts)],
      ["Identifier", html`<${Text}>${letter.Event}<//>`],
    ]} />
    ${letter.Data ? html`<details><summary>What it says</summary><pre tabindex="0">${JSON.stringify(letter.Data, null, 2).split("\n").map((line) => html`<${Text}>${line}<//>${"\n"}`)}</pre></details>` : null}
    <span class="buttons">
      <${ActButton} label="Retry dead letter ${letter.ID}" onClick=${() => retry(letter)}>Retry<//>
      <${ActButton} danger=${true} label="Drop dead letter ${letter.ID}" onClick=${() => forget(letter)}>Drop<//>
    </span>
  </section>`;
}

function Brokers({ brokers, refresh }) {
  const { retryAll, dropBroker } = useLetterActs(refresh);
  const columns = [
    { title: "Broker", of: ([name, each]) => html`<${Text}>${name}<//><small>${each.Type}</small>` },
    { title: "State", of: ([, each]) => html`<${State} of=${KINDS[each.State] ?? each.State} label=${each.State} />` },
    { title: "Waiting", kind: "number", of: ([, each]) => html`${number(each.Backlog)}${each.OldestSeconds ? html`<small>oldest ${duration(each.OldestSeconds)}</small>` : null}` },
    { title: "Failed", kind: "number", of: ([name, each]) => (each.DeadLetters ? html`<a class="bad" href=${link("events", [], { broker: name })}>${number(each.DeadLetters)}</a>` : "0") },
    { title: "Published", kind: "number", of: ([, each]) => html`${number(each.Published)}${each.Returned ? html`<small>${number(each.Returned)} for nobody</small>` : null}` },
    { title: "Last error", kind: "long", of: ([, each]) => (each.LastError ? html`<${Text}>${each.LastError}<//>` : html`<span class="quiet none">–</span>`) },
    {
      title: "",
      kind: "acts",
      of: ([name, each]) => html`<span class="buttons">
        <div class="part">${each.DeadLetters && each.State !== "orphaned" ? html`<${ActButton} small=${true} label="Retry all dead letters of ${name}" onClick=${() => retryAll(name, each.DeadLetters)}>Retry all<//>` : null}</div>
        ${each.State === "orphaned" ? html`<${ActButton} small=${true} danger=${true} label="Drop what waits for ${name}" onClick=${() => dropBroker(name, each)}>Drop<//>` : null}
      </span>`,
    },
  ];
  return html`<${Table} caption="Brokers" columns=${columns} rows=${Object.entries(brokers)} keyOf=${([name]) => name} />`;
}

function Letters({ place, data, error, refresh }) {
  const { retry } = useLetterActs(refresh);
  const { broker, since } = place.query;
  if (!data) {
    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="dead letters" />`;
  }
  const columns = [
    { title: "Event", of: (letter) => html`<a href=${link("events", [letter.ID], place.query)}><${Text}>${letter.Type}<//></a><small><${Text}>${letter.Subject}<//></small>` },
    { title: "Broker", of: (letter) => html`<${Text}>${letter.Broker}<//>` },
    { title: "Refused", of: (letter) => html`<${Time} at=${letter.Since} />` },
    { title: "Error", kind: "long", of: (letter) => html`<${Text}>${letter.Error}<//><small>${counted(letter.Attempts, "attempt", "attempts")}</small>` },
    { title: "", kind: "acts", of: (letter) => html`<${ActButton} small=${true} label="Retry dead letter ${letter.ID}" onClick=${() => retry(letter)}>Retry<//>` },
  ];
  return html`<div class="part">${data.Items.length
      ? html`<${Table} caption="Dead letters, oldest first" columns=${columns} rows=${data.Items} keyOf=${(letter) => letter.ID} current=${(letter) => String(letter.ID) === place.parts[0]} />`
      : html`<${Empty} title="No dead letter">An event that a broker refuses for good shows up here: you can retry or drop it.<//>`}</div>
    <nav class="pages" aria-label="Pages"><span class="quiet">${number(data.Items.length)} of ${number(data.Total)} dead letters${broker ? html` of <${Text}>${broker}<//>` : null}</span>
      ${broker || since ? html`<a class="button" href=${link("events")}>All</a>` : null}
      ${data.Next ? html`<a class="button" href=${link("events", [], { broker, since: data.Next })}>Next</a>` : null}
    </nav>`;
}

function Replay() {
  const { act, mayAct } = useContext(Shared);
  const [error, setError] = useState(null);
  function submit(event) {
    event.preventDefault();
    const given = Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, String(value).trim()]).filter(([, value]) => value));
    const isRange = given.From && given.To && !given.Study;
    if (!isRange && !(given.Study && !given.From && !given.To)) {
      setError(new Error("Give either a study, or both days."));
      return;
    }
    setError(null);
    act({
      title: "Publish again?",
      says: given.Study
        ? `All events of the study ${given.Study} are published to all brokers again, from what Orthanc has of it now.`
        : `The events of all studies that changed from ${given.From} up to, and not on, ${given.To} (UTC) are published to all brokers again. Who gets an event a second time knows it by its identifier.`,
      button: "Publish again",
      run: async () => {
        const { Studies: studies } = await post("/dicom-events/replay", given);
        return `${counted(studies, "study is", "studies are")} being published again.`;
      },
    });
  }
  return mayAct
    ? html`<section aria-labelledby="replay-title"><h2 id="replay-title">Publish again</h2>
        <form class="filters" onSubmit=${submit}>
          <label><span>Study</span><input name="Study" type="search" placeholder="identifier or StudyInstanceUID" autocomplete="off" spellcheck=${false} /></label>
          <label><span>or changed from</span><input name="From" type="date" /></label>
          <label><span>to, not included</span><input name="To" type="date" /></label>
          <button type="submit">Publish again …</button>
        </form>
        <${Problem} error=${error} />
      </section>`
    : null;
}

function View({ place }) {
  const { data: status, error, refresh } = useRoute("/dicom-events/status", 4);
  const { broker, since } = place.query;
  const letters = useRoute(withQuery(LETTERS, { broker, since, limit: PER_PAGE }), 5);
  const both = () => {
    refresh();
    letters.refresh();
  };
  const box = status?.Outbox ?? {};
  return html`<div class="part"><${Problem} error=${error} /></div>
    <div class="part">${place.parts[0] ? html`<${One} key=${place.parts[0]} id=${place.parts[0]} refresh=${both} />` : null}</div>
    <div class="part">${status ? html`<${Brokers} brokers=${status.Brokers} refresh=${both} />` : error ? null : html`<${Loading} what="brokers" />`}</div>
    <div class="part">${box.Bytes === undefined ? null : html`<p class="quiet">The outbox on disk has ${bytes(box.Bytes)}.</p>`}</div>
    <section class="plain" aria-labelledby="letters-title"><h2 id="letters-title">Dead letters</h2>
      <${Letters} place=${place} data=${letters.data} error=${letters.error} refresh=${both} /></section>
    <${Replay} />`;
}

export default {
  id: "events",
  title: "Events",
  scripts: ["dicom_events"],
  badge: (summary) => summary.Alerts.filter((each) => each.Panel === "events").length,
  absent: {
    title: "Nothing is published here",
    gives: "dicom_events tells other software what happens here: by RabbitMQ, Kafka, NATS, SNS, a webhook or a file. This panel then shows what waits for each broker, what one refused and why, with retry and replay.",
  },
  view: View,
};
