"""The look of a page: one style sheet, without a file or font; light or dark on a screen, light in print."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{--paper:#f6f7f9;--sheet:#fff;--ink:#1d2330;--soft:#5b6678;--rule:#e4e7ec;--accent:#2563eb;--bad:#c92a2a;
--good:#2b8a3e;--c0:#2563eb;--c1:#e8590c;--c2:#2b8a3e;--c3:#9c36b5;--c4:#c92a2a;--c5:#0b7285}
@media screen and (prefers-color-scheme:dark){:root{--paper:#0f1218;--sheet:#181c25;--ink:#e6e9ef;--soft:#98a2b3;
--rule:#2a303c;--accent:#7aa2ff;--bad:#ff8787;--good:#69db7c;--c0:#7aa2ff;--c1:#ffa94d;--c2:#69db7c;--c3:#da77f2;
--c4:#ff8787;--c5:#66d9e8}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:clamp(1.6rem,4vw,2.3rem);line-height:1.2;margin:0 0 .4rem;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .7rem;letter-spacing:-.01em}
p{margin:0 0 .9rem;max-width:75ch}.lead{color:var(--soft);font-size:1.08rem;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:.4rem 0 0}
nav a{color:var(--accent);text-decoration:none;font-size:.95rem}nav a:hover{text-decoration:underline}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:.9rem;margin:1.5rem 0}
.card,section{background:var(--sheet);border:1px solid var(--rule);border-radius:14px}
.card{padding:.8rem 1.05rem}.value{font-size:1.5rem;font-weight:650;letter-spacing:-.02em;line-height:1.25;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.label{color:var(--soft);font-size:.88rem}
section{padding:1.4rem 1.5rem;margin:0 0 1.2rem;scroll-margin-top:1rem}
.alert{border-left:4px solid var(--bad);color:var(--bad);padding:.1rem 0 .1rem .9rem;font-weight:550;max-width:none}
.wide{overflow-x:auto}.wide+.wide{margin-top:1rem}table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.36rem .8rem .36rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
td{overflow-wrap:break-word}.long{overflow-wrap:anywhere}th.long{min-width:6em}
thead th{color:var(--soft);font-weight:550}tbody tr:last-child td{border-bottom:0}
.number{font-variant-numeric:tabular-nums}
.up{color:var(--good)}.down{color:var(--bad)}
.facts th{color:var(--soft);font-weight:500;white-space:nowrap;width:1%;padding-right:1.6rem}
.facts td{overflow-wrap:break-word}.long{overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:1.2rem;margin:1rem 0 .4rem}
.chart{width:100%;max-width:720px;height:auto;display:block}.chart text{font-size:12px;fill:var(--soft)}
.chart .name{font-size:14px;font-weight:600;fill:var(--ink)}.chart .key{font-weight:600}
.grid{stroke:var(--rule)}.line{fill:none;stroke-width:2.2;stroke-linejoin:round}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.line{stroke:var(--c)}.dot,.chart .key{fill:var(--c)}
.bar,.cell{fill:var(--c0)}.track{fill:var(--rule)}.chart .figure{fill:var(--ink)}.chart .over{fill:#fff}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,260px),1fr));gap:1rem;margin-top:1rem}
.pictures.c-2{grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr))}
.pictures.c-3{grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr))}
figure{margin:0;min-width:0}.broad{grid-column:1/-1}
img{width:100%;height:auto;display:block;border-radius:8px;background:var(--rule)}
figcaption{color:var(--soft);font-size:.88rem;line-height:1.4;margin-top:.35rem;overflow-wrap:anywhere}
.empty{color:var(--soft)}
@media print{@page{margin:12mm}html{font-size:12px}
body{background:#fff;font-size:1rem}main{max-width:none;padding:0}nav{display:none}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
.card,section{border-radius:0;border-width:0 0 1px}section{padding:.8rem 0}
figure,tr,.chart,.card{break-inside:avoid}h2{break-after:avoid}.wide{overflow:visible}
.pictures,.pictures.c-3{grid-template-columns:repeat(3,1fr)}.pictures.c-2{grid-template-columns:repeat(2,1fr)}}
"""
