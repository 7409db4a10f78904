"""How the pages look: one style sheet, light and dark, from 390 pixels on."""

CSS = """
:root { --ink: #1a1d23; --soft: #5b6270; --line: #d5d9e0; --card: #ffffff; --back: #f4f5f7;
  --blue: #1453c9; --red: #b3261e; --green: #136f3a; --heat: #c8102e; --here: #1453c9;
  --away: #b3261e; }
body.body--dark { --ink: #e9ebef; --soft: #a5adba; --line: #3a404b; --card: #1f232a;
  --back: #14171c; --blue: #8ab4ff; --red: #ff9a8f; --green: #7bd49b; --heat: #ff5a6e;
  --here: #8ab4ff; --away: #ff9a8f; }
body { background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
.nicegui-content { padding: 0; gap: 0; display: block; width: 100%; }
.studio-head { display: flex; flex-wrap: wrap; align-items: center; gap: .2rem 1.4rem;
  padding: .6rem 1.2rem; background: var(--card); border-bottom: 1px solid var(--line); }
.studio-head .brand { font-weight: 700; font-size: 1.1rem; }
.studio-head nav { display: flex; flex-wrap: wrap; gap: .1rem; }
.studio-head nav a { color: var(--ink); text-decoration: none; padding: .45rem .7rem;
  border-radius: 6px; }
.studio-head nav a[aria-current=page] { background: var(--blue); color: var(--card); }
.studio-main { max-width: 1240px; margin: 0 auto; padding: 1rem 1.2rem 4rem; }
.studio-main h1 { font-size: 1.5rem; line-height: 1.25; font-weight: 700; margin: .4rem 0 .2rem; }
.studio-main h2 { font-size: 1.1rem; line-height: 1.3; font-weight: 650; margin: 0 0 .5rem; }
.lead { color: var(--soft); margin: 0 0 1rem; max-width: 70ch; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem; margin: 0 0 1rem; min-width: 0; display: block; }
.two { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr);
  align-items: start; }
.bar { display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: center; }
.three { display: grid; gap: .7rem; grid-template-columns: repeat(3, minmax(0, 1fr)); }
.six { display: grid; gap: .6rem; grid-template-columns: repeat(6, minmax(0, 1fr)); }
table.faces td { min-width: 84px; padding: .2rem; vertical-align: top; }
table.faces th { padding-right: .6rem; text-align: left; font-weight: 600; }
figure { margin: 0; } figure img, figure svg { width: 100%; display: block; border-radius: 6px; }
figcaption { font-size: .85rem; color: var(--soft); line-height: 1.35; padding-top: .2rem;
  overflow-wrap: anywhere; }
.strip { display: grid; gap: .45rem; grid-template-columns: repeat(auto-fill, minmax(74px, 1fr)); }
.thumb { border: 3px solid transparent; border-radius: 8px; padding: 0; cursor: pointer;
  background: none; color: var(--ink); font-size: .74rem; line-height: 1.3; }
#uploads { grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); }
.thumb span { overflow-wrap: anywhere; }
.thumb img { width: 100%; display: block; border-radius: 5px; }
.thumb[aria-pressed=true] { border-color: var(--blue); }
.wrong { color: var(--red); font-weight: 600; } .right { color: var(--green); font-weight: 600; }
.note { color: var(--soft); font-size: .87rem; margin: .35rem 0; }
.alert { border-left: 4px solid var(--red); padding: .5rem .8rem; margin: .5rem 0;
  background: color-mix(in srgb, var(--red) 10%, var(--card)); }
.verdict { border-left: 4px solid var(--blue); padding: .5rem .8rem; font-weight: 600; margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
summary { cursor: pointer; color: var(--blue); padding: .3rem 0; width: fit-content; }
summary::before { content: "▸ "; } details[open] > summary::before { content: "▾ "; }
#survey td, #survey th { padding: .28rem .3rem; }
#strip { margin-top: .4rem; } .note ~ h2, .meter + h2 { margin-top: 1rem; }
.numbers td, .numbers th { padding: .28rem .6rem; text-align: right;
  border-bottom: 1px solid var(--line); }
.numbers td { white-space: nowrap; }
.numbers td:first-child, .numbers th:first-child { text-align: left; }
.numbers caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
.meter { background: color-mix(in srgb, var(--ink) 10%, transparent); height: .55rem;
  min-width: 34px; border-radius: 3px; overflow: hidden; }
.meter span { display: block; height: 100%; background: var(--heat); }
.meter.relied span { background: var(--blue); }
svg.template { max-width: 260px; width: 100%; background: var(--card); border-radius: 8px; }
svg.big { max-width: 430px; } svg.still { touch-action: none; }
.face { fill: none; stroke: var(--soft); stroke-width: 1.4; stroke-linejoin: round;
  pointer-events: none; }
.heat { fill: var(--heat); stroke: none; }
.region { fill: var(--here); fill-opacity: .06; stroke: var(--soft); stroke-width: .8;
  stroke-dasharray: 3 2; cursor: pointer; }
.region:hover { fill-opacity: .2; }
.region[aria-checked=true] { fill-opacity: .42; stroke: var(--here); stroke-dasharray: none;
  stroke-width: 1.6; }
.region.away { fill: var(--away); stroke: var(--away); fill-opacity: .38; stroke-dasharray: none; }
.drawn { fill: var(--here); fill-opacity: .38; stroke: var(--here); stroke-width: 1.6;
  pointer-events: none; }
.drawing { fill: none; stroke: var(--here); stroke-dasharray: 4 2; stroke-width: 1.4;
  pointer-events: none; }
.painted { fill: var(--here); fill-opacity: .55; pointer-events: none; }
.brush { fill: none; stroke: var(--ink); stroke-width: 1.2; pointer-events: none; }
.still .region { pointer-events: none; }
svg.cells { background: #000; } .cell { fill: none; stroke: #fff; stroke-opacity: .35;
  stroke-width: .35; } .cell.covered { fill: #3d8bff; }
svg.curves { width: 100%; max-width: 520px; }
svg.curves text { font-size: 10px; fill: var(--soft); }
svg.curves polyline { fill: none; stroke-width: 2; }
svg.curves .grid { stroke: var(--line); }
.line-0 { stroke: var(--blue); } .name-0, .mark-0 { fill: var(--blue) !important; }
.line-1 { stroke: var(--red); } .name-1, .mark-1 { fill: var(--red) !important; }
.line-2 { stroke: var(--green); stroke-dasharray: 4 3; }
.name-2, .mark-2 { fill: var(--green) !important; }
progress { width: 100%; height: 1rem; accent-color: var(--blue); }
progress::-webkit-progress-value { background: var(--blue); }
progress::-webkit-progress-bar { background: color-mix(in srgb, var(--ink) 12%, transparent);
  border-radius: 4px; }
.button { font: inherit; font-weight: 600; padding: .5rem 1rem; border-radius: 8px; cursor: pointer;
  border: 1px solid var(--line); background: var(--card); color: var(--ink); min-height: 2.6rem; }
.button.main { background: var(--blue); color: var(--card); border-color: var(--blue); }
.button:disabled { opacity: .45; cursor: default; }
a.button { text-decoration: none; display: inline-block; }
:focus-visible { outline: 3px solid var(--blue); outline-offset: 2px; }
svg :focus-visible { outline: none; stroke: var(--ink); stroke-width: 3; }
.field { display: flex; flex-direction: column; font-size: .85rem; color: var(--soft);
  gap: .15rem; }
.field select, .field input { font: inherit; font-size: 1rem; padding: .4rem .5rem; min-width: 9rem;
  max-width: 100%; border: 1px solid var(--line); border-radius: 7px; background: var(--card);
  color: var(--ink); min-height: 2.5rem; }
fieldset { border: 1px solid var(--line); border-radius: 8px; padding: .3rem .8rem .6rem;
  margin: 0 0 .7rem; min-width: 0; }
legend { font-size: .85rem; color: var(--soft); padding: 0 .3rem; }
.choice { display: inline-flex; gap: .4rem; align-items: baseline; padding: .25rem .9rem .25rem 0; }
.choice input { accent-color: var(--blue); width: 1.05rem; height: 1.05rem; }
.empty { text-align: center; padding: 2.5rem 1rem; color: var(--soft); }
.q-uploader { background: transparent; width: 100%; max-height: 220px; box-shadow: none;
  border: 1px dashed var(--line); } .q-uploader__header { background: var(--blue); }
body.body--dark .q-uploader__header { color: #14171c; } .q-uploader__list { min-height: 0; }
@media (max-width: 1100px) { .two.numbers-beside { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 760px) {
  .two { grid-template-columns: minmax(0, 1fr); }
  .six { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .studio-head { padding: .4rem .7rem; } .studio-head nav a { padding: .4rem .5rem; }
  .studio-main { padding: .7rem .7rem 3rem; } .three { gap: .35rem; } .card { padding: .7rem; }
}
@media (prefers-reduced-motion: reduce) {
  * { transition: none !important; animation: none !important; } }
"""
