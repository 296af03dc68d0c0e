// A chart of columns over time, by uPlot; the same figures are in a table for who can't see it.

import { html, useEffect, useRef } from "../vendor/preact.js";

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options(series, width, height) {
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  return {
    width,
    height,
    padding: [8, 8, 0, 0],
    cursor: { points: { size: 6 }, drag: { x: false, y: false } },
    legend: { live: true },
    scales: { y: { range: (_chart, _low, high) => [0, Math.max(high * 1.1, 4)] } },
    axes: [
      { ...axis, values: [[3600, "{HH}:{mm}", null, null, null, null, null, null, 1], [60, "{HH}:{mm}", null, null, null, null, null, null, 1], [1, "{HH}:{mm}", null, null, null, null, null, null, 1]] },
      { ...axis, size: 48, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000] },
    ],
    series: [
      { label: "Time", value: (_chart, value) => (value === null ? "–" : new Date(value * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" })) },
      ...series.map(({ label, colour: name, fill }) => ({
        label,
        stroke: colour(name),
        fill: fill ? `${colour(name)}22` : undefined,
        width: 1.75,
        points: { show: false },
        value: (_chart, value) => (value === null || value === undefined ? "–" : value.toLocaleString()),
      })),
    ],
  };
}

/** `times` are seconds since 1970, `series` [{ label, colour, values, fill }]; `label` says what is seen. */
export function Chart({ times, series, label, height = 220 }) {
  const place = useRef(null);
  const chart = useRef(null);
  const data = [times, ...series.map((each) => each.values)];
  const newest = useRef(data);
  newest.current = data;

  useEffect(() => {
    const draw = () => {
      chart.current?.destroy();
      chart.current = new window.uPlot(options(series, place.current.clientWidth, height), newest.current, place.current);
    };
    draw();
    const watcher = new ResizeObserver(() => chart.current?.setSize({ width: place.current.clientWidth, height }));
    watcher.observe(place.current);
    dark.addEventListener("change", draw);
    return () => {
      watcher.disconnect();
      dark.removeEventListener("change", draw);
      chart.current?.destroy();
      chart.current = null;
    };
  }, [series.length]);

  useEffect(() => chart.current?.setData(newest.current), [times]);

  return html`<div class="chart" ref=${place} role="img" aria-label=${label}></div>`;
}
