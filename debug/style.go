package debug

// style is the style sheet of the page, to the byte: the Content-Security-Policy has its hash.
const style = `
:root{--bg:#f4f5f7;--card:#fff;--ink:#1c2430;--soft:#5a6675;--rule:#dde2e8;--line:#0b62c4;--good:#157347;--warn:#a15c00;--bad:#b42318}
@media (prefers-color-scheme:dark){:root{--bg:#11151b;--card:#1a2029;--ink:#e6eaf0;--soft:#9aa7b6;--rule:#313a46;--line:#6cb0ff;--good:#57c98a;--warn:#f0b145;--bad:#ff8a7d}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main{max-width:1120px;margin:0 auto;padding:0 16px}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 16px;padding-top:18px;padding-bottom:14px}
h1{font-size:22px;margin:0}
h2{font-size:16px;margin:0 0 6px}
p{margin:0}
a{color:var(--line)}
nav{margin-left:auto;display:flex;flex-wrap:wrap;gap:4px 14px}
.at,.note,small,caption,nav span{color:var(--soft)}
.note,caption,small{font-size:13px}
main{padding-bottom:40px}
.card,.tile{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:14px 16px;min-width:0}
main>.card{margin-bottom:14px}
.state{border-left:6px solid var(--soft)}
.state h2{font-size:19px}
.valid{border-left-color:var(--good)}.valid strong{color:var(--good)}
.jeopardy{border-left-color:var(--warn)}.jeopardy strong{color:var(--warn)}
.lost{border-left-color:var(--bad)}.lost strong{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:14px;margin-bottom:14px}
.tile h2{font-size:13px;font-weight:600;color:var(--soft);margin:0}
.figure{font-size:26px;font-weight:650;font-variant-numeric:tabular-nums}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:14px;margin-bottom:14px}
table{width:100%;border-collapse:collapse}
caption{text-align:left;padding-bottom:6px}
th,td{text-align:left;font-weight:400;padding:5px 12px 5px 0;border-top:1px solid var(--rule);vertical-align:top}
th:last-child,td:last-child{padding-right:0}
thead th{border-top:0;color:var(--soft);font-size:13px;padding-top:0}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.counters small{display:block;line-height:1.3}
.counters td{width:110px}
@media (max-width:480px){.counters td{width:84px}.tile{padding:10px 12px}}
.zero td{color:var(--soft)}
.share{display:block;width:100%;height:4px;margin-top:4px}
.share rect{fill:var(--line)}
.keys th,code{overflow-wrap:anywhere}
code{font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.wide{overflow-x:auto}
.wide td,.wide th{white-space:nowrap}
.plot{display:grid;grid-template-columns:auto 1fr;gap:4px 8px}
.plot svg{width:100%;height:160px;display:block;overflow:visible}
.y,.x{display:flex;justify-content:space-between;color:var(--soft);font-size:12px}
.y{flex-direction:column;text-align:right;line-height:1;margin:-5px 0}
.plot .x{grid-column:2}
.plot+.note{margin-top:8px}
.x{margin-top:4px}
.grid{stroke:var(--rule);fill:none;vector-effect:non-scaling-stroke}
.line{stroke:var(--line);stroke-width:2;fill:none;vector-effect:non-scaling-stroke}
.area{fill:var(--line);fill-opacity:.13}
.deaf{fill:var(--warn);fill-opacity:.22}
.bars{width:100%;height:72px;display:block;border-bottom:1px solid var(--rule)}
.bar{fill:var(--line)}
.hover{fill:transparent}
g:hover .hover{fill:var(--rule)}
dl{display:flex;flex-wrap:wrap;gap:4px 28px;margin:8px 0 10px}
dt{color:var(--soft);font-size:13px}
dd{margin:0;font-size:19px;font-weight:650;font-variant-numeric:tabular-nums}
details{margin-top:10px}
summary{cursor:pointer;color:var(--line)}
a:focus-visible,summary:focus-visible{outline:2px solid var(--line);outline-offset:2px}
`
