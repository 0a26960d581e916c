// The template function, and the small parts that several views use.
import { h } from "/page/preact.module.js";
import htm from "/page/htm.module.js";

export const html = htm.bind(h);

/** Text with a button that copies it. */
export function Copy({ label, text, say }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say(`${label} copied`);
    } catch {
      say(`${label} could not be copied: select the text instead`);
    }
  };
  return html`<span class="copy"><code>${text}</code> <button type="button" class="small" onClick=${copy} aria-label=${`Copy ${label}`}>Copy</button></span>`;
}

/** A bar with its number. */
export const Meter = ({ value }) => html`<span class="meter" aria-hidden="true"><i style=${{ width: `${Math.round(100 * value)}%` }}></i></span>`;

/** What went wrong, and a way on. */
export const Problem = ({ text, retry }) => html`<div class="problem" role="alert"><p>${text}</p>
  ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}</div>`;

/** The heading of a view; it gets the focus when the view changes. */
export const Heading = ({ children }) => html`<h1 id="heading" tabindex="-1">${children}</h1>`;
