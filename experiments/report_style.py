"""The report's style sheet: a quiet page, light or dark as the reader's system is."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --ink: #23211d; --muted: #6d685f; --rule: #dcd7cc; --strong-rule: #8d877b;
  --panel: #f3f0e9; --badge: #8a5a00; --badge-ground: #f8ecd0;
  --shadow: #0000001f;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L", Georgia, serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171614; --ink: #e6e2d9; --muted: #a19b8f; --rule: #37342f; --strong-rule: #7b756a;
    --panel: #201e1b; --badge: #f0c878; --badge-ground: #3b2f16; --shadow: #000000b0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: break-word; -webkit-text-size-adjust: 100%;
}
main {
  max-width: 75rem; margin: 0 auto;
  padding: clamp(2rem, 6vw, 4.5rem) clamp(1.25rem, 3vw, 2rem);
}
h1, h2 { font-family: var(--serif); font-weight: 500; line-height: 1.2; text-wrap: balance; }
h1 { font-size: clamp(1.9rem, 5vw, 2.75rem); margin: .25rem 0 1rem; letter-spacing: -.01em; }
h2 { font-size: 1.5rem; margin: 0 0 .5rem; }
h3, h4 { font-size: 1rem; font-weight: 600; margin: 0; }
p { margin: 0 0 .75rem; max-width: 44rem; text-wrap: pretty; }
section { margin-top: clamp(3rem, 7vw, 4.5rem); }
code, pre { font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
:focus-visible { outline: 2px solid var(--strong-rule); outline-offset: 3px; }
.eyebrow {
  margin: 0; color: var(--muted); font-size: .8rem;
  letter-spacing: .12em; text-transform: uppercase;
}
.lede { font-size: 1.15rem; margin: 0; }
.hint, .notes { color: var(--muted); font-size: .9rem; }
.notes { margin: 1.25rem 0 0; padding: 0; list-style: none; }
.notes li { max-width: 44rem; margin-bottom: .5rem; }

/* The table scrolls in here, the page never does; a shadow says that there is more to the right. */
.scroll {
  overflow-x: auto; margin-top: 1.25rem;
  background:
    linear-gradient(to left, var(--paper) 40%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(to left, var(--shadow), transparent) right / 1rem 100% no-repeat;
}
table {
  width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--strong-rule); border-bottom: 2px solid var(--strong-rule);
}
th, td { padding: .5rem .45rem; text-align: right; vertical-align: baseline; font-weight: 400; }
thead th { font-size: .8rem; line-height: 1.3; color: var(--muted); vertical-align: bottom; }
thead .figure { color: var(--ink); font-weight: 600; min-width: 5.5rem; }
thead .figure[colspan] {
  text-align: center;
  background: linear-gradient(var(--rule) 0 0) 100% 100% / calc(100% - 1.1rem) 1px no-repeat;
}
thead tr:last-child th { padding-top: .25rem; }
tbody { border-top: 1px solid var(--strong-rule); }
tbody tr + tr { border-top: 1px solid var(--rule); }
th.row {
  position: sticky; left: 0; min-width: 8.5rem; max-width: 14rem; padding-left: 0;
  background: var(--paper); text-align: left; line-height: 1.35;
}
td { white-space: nowrap; }
@media (min-width: 46rem) { th.row { white-space: nowrap; max-width: none; } }
.starts { padding-left: 1.1rem; }
.interval { display: block; color: var(--muted); font-size: .75rem; }
.none, .from-paper { color: var(--muted); }
.controls th, .controls td { color: var(--muted); font-style: italic; font-weight: 400; }
.controls .group {
  padding: .9rem 0 .15rem; text-align: left; font-size: .75rem; font-style: normal;
  letter-spacing: .08em; text-transform: uppercase;
}
.controls .group span { position: sticky; left: 0; }
.controls .group + tr, .controls tr:first-child + tr { border-top: 0; }
.badge {
  display: block; width: fit-content; margin-top: .15rem; padding: 0 .5em; border-radius: 1em;
  background: var(--badge-ground); color: var(--badge); font-size: .75rem; white-space: nowrap;
}

section > h3 { margin: 2.5rem 0 .4rem; }
.pair { margin-top: 2.25rem; }
.pair h4 { font-family: var(--serif); font-weight: 500; color: var(--muted); margin-bottom: .6rem; }
.pictures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.1rem .9rem; }
@media (min-width: 46rem) { .pictures { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
figure { margin: 0; break-inside: avoid; }
img { display: block; width: 100%; height: auto; background: var(--panel); }
figcaption { margin-top: .4rem; font-size: .85rem; line-height: 1.35; }
.source figcaption, .attention figcaption { color: var(--muted); font-style: italic; }
.scale { white-space: nowrap; }
.scale i {  /* as trainers.pictures.overlay colours a mid-grey photo */
  display: inline-block; width: 5rem; height: .6em; margin: 0 .25em;
  background: linear-gradient(90deg, #808080, #ec5f1e);
}

.cards {
  display: grid; gap: 1rem; margin-top: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr));
}
.card { background: var(--panel); padding: 1rem 1.1rem; border-radius: .3rem; font-size: .85rem; }
.card p { margin: .6rem 0 0; color: var(--muted); }
dl {
  display: grid; grid-template-columns: auto minmax(0, 1fr); gap: .15rem .9rem; margin: .5rem 0 0;
}
dt { color: var(--muted); }
dd { margin: 0; }
pre {
  margin: .75rem 0; padding: 1rem 1.1rem; border-radius: .3rem; background: var(--panel);
  white-space: pre-wrap; overflow-wrap: anywhere;
}
summary { cursor: pointer; width: fit-content; color: var(--muted); }

/* Charts (svg.py, charts.py, forest.py). Series stay 3:1 against the page and apart from each other
   for the colour-blind. Letters grow with the drawing's units where a chart is shown small. */
:root {
  --series-0: #4688e0; --series-1: #b44f09; --series-2: #24877b; --series-3: #722a61;
  --series-4: #9a8d0a; --series-5: #1f2125; --series-6: #09698f; --series-7: #7f504c;
  --series-8: #4f4d11; --series-9: #493fa5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --series-0: #6b7cc9; --series-1: #ef8f20; --series-2: #99eba2; --series-3: #f1a2fe;
    --series-4: #977604; --series-5: #ecf2ff; --series-6: #49a2ac; --series-7: #c17c71;
    --series-8: #9abc8d; --series-9: #a787f1;
  }
}
.series-0 { color: var(--series-0); } .series-1 { color: var(--series-1); }
.series-2 { color: var(--series-2); } .series-3 { color: var(--series-3); }
.series-4 { color: var(--series-4); } .series-5 { color: var(--series-5); }
.series-6 { color: var(--series-6); } .series-7 { color: var(--series-7); }
.series-8 { color: var(--series-8); } .series-9 { color: var(--series-9); }
.charts {
  display: grid; gap: 2.25rem 2.5rem; margin-top: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr));
}
.charts figcaption { margin-top: .7rem; color: var(--muted); }
.chart { container-type: inline-size; max-width: 40rem; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
.chart-title { margin: 0 0 .75rem; font-size: .95rem; font-weight: 600; }
.chart text { fill: var(--ink); font-size: 12px; font-variant-numeric: tabular-nums; }
.chart .tick { fill: var(--muted); }
.chart .name { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.chart .settled { font-weight: 700; }
@container (max-width: 26rem) { .chart text { font-size: 16px; } }
.chart path { fill: none; stroke-width: 1; }
.chart .grid { stroke: var(--rule); }
.chart .axis, .chart .zero { stroke: var(--strong-rule); }
.chart .guide { stroke: var(--muted); stroke-dasharray: 3 3; }
.chart .curve { stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }
.chart .band {
  fill: currentColor; fill-opacity: .14; stroke: currentColor; stroke-opacity: .2;
}
.chart .mark { fill: currentColor; stroke: var(--paper); }
.chart .hollow .mark { fill: var(--paper); stroke: currentColor; stroke-width: 1.6; }
.chart .control .mark { stroke: var(--ink); stroke-width: 1.8; }
.chart .heavy { stroke: currentColor; stroke-width: 5; stroke-opacity: .45; }
.chart .light { stroke: currentColor; stroke-width: 1.5; }
.legend {
  display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .6rem 0 0; padding: 0;
  list-style: none; font-size: .85rem; line-height: 1.35;
}
.legend li { display: flex; align-items: center; gap: .5rem; }
.legend span { color: var(--ink); }
.chart .key { flex: none; width: 2rem; }
"""
