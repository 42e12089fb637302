// Charts (uPlot): bars by day, stacked by kind, and a value against a threshold. The numbers stand beside each in a table,
// for who does not see it. uPlot is loaded with the first chart.
import { html, useEffect, useRef } from "./lib.js";

const COLOURS = ["--chart-1", "--chart-2", "--chart-3", "--chart-4", "--chart-5"];
const HEIGHT = 220;
let loading = null;

function library() {
  if (!document.getElementById("uplot-css")) {
    const sheet = document.createElement("link");
    sheet.id = "uplot-css";
    sheet.rel = "stylesheet";
    sheet.href = "/page/vendor/uplot.css";
    document.head.append(sheet);
  }
  loading ??= import("./vendor/uplot.js").then((module) => module.default);
  return loading;
}

/** Bars: `labels` along the bottom, `series` as [{name, values}], stacked; `unit` of the values. */
export function Bars({ labels, series, unit, label }) {
  const place = useRef(null);
  useEffect(() => {
    let chart = null;
    let ended = false;
    const draw = async () => {
      const UPlot = await library();
      if (ended || !place.current) return;
      chart?.destroy();
      chart = new UPlot(options(UPlot, place.current, labels, series, unit), stacked(series), place.current);
    };
    const size = () => place.current && chart?.setSize({ width: place.current.clientWidth, height: HEIGHT });
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const watch = new ResizeObserver(size);
    draw().then(() => place.current && watch.observe(place.current));
    scheme.addEventListener("change", draw);
    window.addEventListener("fairdial-theme", draw);
    return () => {
      ended = true;
      watch.disconnect();
      scheme.removeEventListener("change", draw);
      window.removeEventListener("fairdial-theme", draw);
      chart?.destroy();
    };
  }, [labels, series]);
  return html`
    <figure class="chart">
      <figcaption>
        ${label}
        ${series.length > 1 && html`<span class="legend">${series.map((each, at) => html`<span key=${each.name} class=${`key key-${at + 1}`}>${each.name}</span>`)}</span>`}
      </figcaption>
      <div ref=${place} aria-hidden="true"></div>
    </figure>
  `;
}

/** uPlot draws each series from zero: the sums from the bottom up, the highest first. */
function stacked(series) {
  const sums = [];
  series.forEach((each, at) => sums.push(each.values.map((value, x) => value + (at ? sums[at - 1][x] : 0))));
  return [series[0].values.map((_, x) => x), ...sums.reverse()];
}

function options(UPlot, place, labels, series, unit) {
  const style = getComputedStyle(place);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--pico-muted-color"), grid: { stroke: colour("--chart-grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  const bars = UPlot.paths.bars({ size: [0.7, 40] });
  return {
    width: place.clientWidth || 600,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false, range: [-0.6, labels.length - 0.4] }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.08 : 1] } },
    axes: [
      { ...axis, size: 28, grid: { show: false }, splits: () => spread(labels.length), values: (_, at) => at.map((x) => labels[x] ?? "") },
      { ...axis, size: 56, values: (_, at) => at.map((value) => `${value}${unit ? ` ${unit}` : ""}`) },
    ],
    series: [
      {},
      ...series.map((each, at) => ({ label: each.name, fill: colour(COLOURS[at]), width: 0, paths: bars, points: { show: false } })).reverse(),
    ],
  };
}

/** Which of so many days are named below. */
function spread(count) {
  const step = Math.max(1, Math.ceil(count / 8));
  return Array.from({ length: count }, (_, x) => x).filter((x) => x % step === 0);
}
