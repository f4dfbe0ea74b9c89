package debug

// page is the template of a view.
const page = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{{if .Refresh}}<meta http-equiv="refresh" content="{{.Refresh}}">
{{end}}<title>leasing: session {{.Session.State}}</title>
<style>{{.Style}}</style>
</head>
<body>
<header>
<h1>leasing</h1>
<p class="at">As of <time id="at" datetime="{{stamp .Time}}">{{day .Time}}</time></p>
<nav aria-label="This page">{{if .Refresh}}<span>Refreshed every {{.Refresh}} s</span> <a id="refresh" href="?">Stop</a>
{{- else}}<a id="refresh" href="?">Refresh</a> <a href="?refresh=10">Every 10 s</a>{{end}} <a href="?format=json">JSON</a></nav>
</header>
<main>
{{template "session" .}}
<div class="tiles">
{{range .Tiles}}<div class="tile"><h2>{{.Name}}</h2><p class="figure">{{.Figure}}</p><p class="note">{{.Note}}</p></div>
{{end}}</div>
{{template "ratio" .}}
<div class="pair">
{{range .Tables}}<section class="card"><h2>{{.Name}}</h2>
<table class="counters"><caption>{{.Caption}}, since the KV was made</caption>
<thead><tr><th scope="col">What</th><th scope="col" class="n">Count</th></tr></thead>
<tbody>
{{range .Rows}}<tr{{if not .Count}} class="zero"{{end}}><th scope="row">{{.Name}} <small>{{.Means}}</small></th><td class="n">{{count .Count}}{{template "share" .Share}}</td></tr>
{{end}}</tbody></table></section>
{{end}}{{range .Bars}}{{template "bars" .}}
{{end}}{{range .Tops}}{{template "top" .}}
{{end}}</div>
{{template "leases" .}}
</main>
</body>
</html>
{{define "session"}}<section class="card state {{.Session.State.Class}}" aria-labelledby="session">
<h2 id="session">Session <strong id="state">{{.Session.State}}</strong></h2>
<p>{{.Session.State.Means}}</p>
{{if or .Session.Since .Session.Why}}<p class="note">{{with .Session.Since}}Since <time datetime="{{stamp .}}">{{day .}}</time>, for {{span . $.Time}}{{end}}
{{- if and .Session.Since .Session.Why}}: {{end}}<span id="why">{{.Session.Why}}</span>.</p>{{end}}
</section>{{end}}
{{define "ratio"}}<section class="card"><h2>Hit ratio over time</h2>
<div class="plot"><p class="y" aria-hidden="true"><span>100 %</span><span>50 %</span><span>0 %</span></p>
<svg id="ratio" viewBox="0 0 720 160" preserveAspectRatio="none" role="img" aria-labelledby="ratio-title ratio-means">
<title id="ratio-title">Hit ratio over the last {{minutes .Chart.Span}}</title><desc id="ratio-means">{{.Chart.Means}}</desc>
{{range .Chart.Deaf}}<rect class="deaf" x="{{.X}}" y="0" width="{{.Width}}" height="160"/>{{end}}
<path class="grid" d="M0 0H720M0 40H720M0 80H720M0 120H720M0 160H720"/>
<path class="area" d="{{.Chart.Area}}"/><path id="line" class="line" d="{{.Chart.Line}}"/>
</svg>
<p class="x" aria-hidden="true"><span>{{minutes .Chart.Span}} ago</span><span>now</span></p></div>
<p class="note">{{.Chart.Means}}{{if .Chart.Deaf}} The shaded times had no live lease.{{end}}</p>
<details><summary>In numbers</summary>
<div class="wide"><table><caption>Every five minutes, the latest first; times in UTC</caption>
<thead><tr><th scope="col">From</th><th scope="col">To</th><th scope="col" class="n">Hit ratio</th><th scope="col" class="n">Hits</th><th scope="col" class="n">Misses</th><th scope="col" class="n">Writes</th><th scope="col" class="n">Keys owned</th></tr></thead>
<tbody>
{{range .Recent}}<tr><th scope="row">{{clock .From}}</th><td>{{clock .To}}</td><td class="n">{{percent .HitRatio}}</td><td class="n">{{count .Hits}}</td><td class="n">{{count .Misses}}</td><td class="n">{{count .Writes}}</td><td class="n">{{count .Keys}}</td></tr>
{{else}}<tr><td colspan="7">Nothing yet: this page was made less than a second ago.</td></tr>
{{end}}</tbody></table></div></details>
</section>{{end}}
{{define "share"}}<svg class="share" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect width="{{.}}" height="4"/></svg>{{end}}
{{define "bars"}}<section class="card"><h2>{{.Name}}</h2>
<p class="note">{{.Caption}}</p>
<dl><div><dt>Half within</dt><dd>{{human .Of.P50}}</dd></div><div><dt>99 % within</dt><dd>{{human .Of.P99}}</dd></div><div><dt>How many</dt><dd>{{count .Of.Count}}</dd></div></dl>
<svg class="bars" viewBox="0 0 {{.Width}} {{.Height}}" preserveAspectRatio="none" role="img" aria-label="{{.Name}} by duration">
{{range .Columns}}<g><title>{{.Means}}</title><rect class="hover" x="{{.X}}" y="0" width="10" height="60"/><rect class="bar" x="{{.X}}" y="{{.Top}}" width="9" height="{{.Height}}"/></g>
{{end}}</svg>
<p class="x" aria-hidden="true"><span>{{.First}}</span><span>each twice the one before</span><span>&gt; {{.Last}}</span></p></section>{{end}}
{{define "top"}}<section class="card"><h2>{{.Name}}</h2>
<table class="keys"><caption>{{.Caption}}</caption>
<thead><tr><th scope="col">Key</th><th scope="col" class="n">Count</th></tr></thead>
<tbody>
{{range .Keys}}<tr><th scope="row">{{with key .Key}}<code{{if .Title}} title="{{.Title}}"{{end}}>{{.Text}}</code>{{if .Bytes}} <small>{{count .Bytes}} bytes</small>{{end}}{{end}}</th><td class="n">{{count .Count}}</td></tr>
{{else}}<tr><td colspan="2">None yet.</td></tr>
{{end}}</tbody></table></section>{{end}}
{{define "leases"}}<section class="card"><h2>Leases</h2>
<table id="leases"><caption>Leases that claims hang on</caption>
<thead><tr><th scope="col">Lease</th><th scope="col" class="n">Claims</th><th scope="col" class="n">To deadline</th></tr></thead>
<tbody>
{{range .Leases}}<tr><th scope="row"><code>{{.ID}}</code></th><td class="n">{{count .Claims}}</td><td class="n">{{secs .Deadline}}</td></tr>
{{else}}<tr><td colspan="3">No lease is live.</td></tr>
{{end}}</tbody></table></section>{{end}}
`
