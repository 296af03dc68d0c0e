// What acts asks first, names what it will do, and shows what came of it.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { Problem, Text } from "./ui.js";

/**
 * The dialog. `asked` is { title, says, button, danger, run, done } or null: `run` does it and returns what came of it as a
 * text, `done` is called then (to look again).
 */
export function ActDialog({ asked, onClose, say }) {
  const dialog = useRef(null);
  const [state, setState] = useState({ busy: false, result: null, error: null });

  useEffect(() => {
    if (asked && dialog.current) {
      setState({ busy: false, result: null, error: null });
      dialog.current.showModal();
      dialog.current.querySelector("[data-first]")?.focus();
    }
  }, [asked]);

  if (!asked) {
    return null;
  }

  async function run() {
    setState({ busy: true, result: null, error: null });
    try {
      const result = await asked.run();
      setState({ busy: false, result, error: null });
      say(result);
      asked.done?.();
    } catch (error) {
      setState({ busy: false, result: null, error });
    }
  }

  const close = () => dialog.current?.close();
  return html`<dialog ref=${dialog} class="act" aria-labelledby="act-title" onClose=${onClose}>
    <h2 id="act-title"><${Text}>${asked.title}<//></h2>
    <p><${Text}>${asked.says}<//></p>
    <div class="part"><${Problem} error=${state.error} /></div>
    <div class="part">${state.result !== null ? html`<p class="result" role="status"><${Text}>${state.result}<//></p>` : null}</div>
    <div class="buttons">
      <button type="button" data-first onClick=${close}>${state.result !== null ? "Close" : "Cancel"}</button>
      ${state.result === null
        ? html`<button type="button" class=${asked.danger ? "danger primary" : "primary"} disabled=${state.busy} onClick=${run}>${state.busy ? "Working …" : asked.button}</button>`
        : null}
    </div>
  </dialog>`;
}
