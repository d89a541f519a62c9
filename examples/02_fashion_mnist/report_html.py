# SPDX-License-Identifier: Apache-2.0
"""The HTML page of report.py: one file that needs nothing else, with plots drawn as inline SVG."""
import html
import math
import re

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 48, 28, 14, 46

# Hues that colour-blind readers can tell apart (after Okabe and Ito), for light and for dark paper. Dense
# runs are dashed as well, so that nothing depends on colour alone.
COLOURS = {"sgd": ("#1f2328", "#e6edf3"), "topk": ("#b35c00", "#f0a35c"), "dgc": ("#0063b1", "#66b3ff"),
           "quantize": ("#007a5a", "#3ecfa3"), "adam": ("#6e7781", "#9da7b1"),
           "onebit_adam": ("#a3246f", "#f08cc4")}

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --soft: #57606a; --line: #d0d7de;
  --panel: #f6f8fa; --note: #fff8e1; --note-line: #d9a400; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --soft: #9da7b1;
  --line: #30363d; --panel: #161b22; --note: #2a2410; --note-line: #b38600; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 1180px; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p { margin: .5rem 0; max-width: 95ch; }
.soft { color: var(--soft); }
.words { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .75rem 1.25rem;
  margin-top: 1.25rem; }
.words p { max-width: 110ch; }
.note { background: var(--note); border-left: 4px solid var(--note-line); padding: .5rem 1rem; border-radius: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .45rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
td:first-child { font-weight: 600; }
tr.dense td { background: var(--panel); }
.key { display: inline-block; width: 1.6rem; height: .75rem; margin-right: .5rem; vertical-align: baseline; }
.legend { display: flex; flex-wrap: wrap; gap: .4rem; margin: .5rem 0 1rem; }
.legend button { font: inherit; font-size: .9rem; color: var(--ink); background: var(--panel);
  border: 1px solid var(--line); border-radius: 999px; padding: .2rem .8rem; cursor: pointer; }
.legend button[aria-pressed=false] { opacity: .45; text-decoration: line-through; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1.25rem; }
figure { margin: 0; padding: .75rem .75rem .25rem; border: 1px solid var(--line); border-radius: 8px; }
figcaption { font-weight: 600; padding: 0 .25rem .25rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .dense { stroke-dasharray: 6 4; }
.hidden { display: none; }
details { margin-top: 1rem; } summary { cursor: pointer; font-weight: 600; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .75rem 1rem;
  overflow-x: auto; font-size: .85rem; }
"""

SCRIPT = """
for (const button of document.querySelectorAll('.legend button')) {
  button.addEventListener('click', () => {
    const shown = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', shown);
    for (const curve of document.querySelectorAll('[data-run="' + button.dataset.run + '"]')) {
      if (curve !== button) curve.classList.toggle('hidden', !shown);
    }
  });
}
"""


def colour_rules():
    light = "".join(f".c-{name} {{ stroke: {pair[0]}; fill: {pair[0]}; }}\n" for name, pair in COLOURS.items())
    dark = "".join(f".c-{name} {{ stroke: {pair[1]}; fill: {pair[1]}; }}\n" for name, pair in COLOURS.items())
    return f"{light}@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def key_mark(name, dense):
    """The piece of line that stands for a run in tables and in the legend."""
    dash = " dense" if dense else ""
    return (f'<svg class="key" viewBox="0 0 32 12" aria-hidden="true">'
            f'<path class="curve c-{name}{dash}" d="M1 6H31"/></svg>')


class Axis:
    """Maps values to pixels, linearly or by logarithm, with ticks at round numbers."""

    def __init__(self, values, begin, end, logarithmic=False, low=None, high=None):
        self.logarithmic = logarithmic
        self.begin, self.end = begin, end
        self.low = min(values) if low is None else low
        self.high = max(values) if high is None else high
        if logarithmic:
            self.low = 10 ** math.floor(math.log10(self.low))
            self.high = 10 ** math.ceil(math.log10(self.high))
        if self.high <= self.low:
            self.high = self.low * 10 if logarithmic else self.low + 1

    def pixel(self, value):
        if self.logarithmic:
            part = math.log10(max(value, self.low) / self.low) / math.log10(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.begin + part * (self.end - self.begin)

    def ticks(self):
        if self.logarithmic:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0 ** power for power in range(first, last + 1)]
        rough = (self.high - self.low) / 6
        magnitude = 10 ** math.floor(math.log10(rough))
        step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def short_bytes(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:g} {unit}"
        count /= 1000
    return f"{count:g} TB"


def smooth(points):
    """Each loss as the mean of itself and its neighbours: a point covers only a hundredth of the run."""
    out = []
    for i, (x, _) in enumerate(points):
        window = [y for _, y in points[max(0, i - 2):i + 3]]
        out.append((x, sum(window) / len(window)))
    return out


def plot(runs, dense_names, caption, x_key, y_key):
    by_bytes = x_key == "bytes"
    curves = {}
    for run in runs:
        points = [(point[x_key], point[y_key]) for point in run["curve"]
                  if y_key in point and (not by_bytes or point[x_key] > 0)]
        curves[run["name"]] = smooth(points) if y_key == "loss" else points
    every = [point for points in curves.values() for point in points]
    if not every:
        return ""
    x_axis = Axis([x for x, _ in every], LEFT, WIDTH - RIGHT, logarithmic=by_bytes,
                  low=None if by_bytes else 0)
    ys = sorted(y for _, y in every)
    # The first steps' losses would squeeze all that is worth seeing into the bottom of the plot.
    limits = {"low": 0, "high": min(ys[-1], 3 * ys[len(ys) // 2])} if y_key == "loss" else {}
    if y_key == "accuracy":
        limits = {"low": math.floor(ys[0] - 0.5), "high": math.ceil(ys[-1] + 0.2)}
    y_axis = Axis(ys, HEIGHT - BOTTOM, TOP, **limits)

    clip = f"clip-{y_key}-{x_key}"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(caption)}">'
             f'<clipPath id="{clip}"><path d="M{LEFT} {TOP - 4}H{WIDTH - RIGHT + 4}V{HEIGHT - BOTTOM}H{LEFT}Z"/>'
             f'</clipPath>']
    for tick in y_axis.ticks():
        y = y_axis.pixel(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
                     f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_axis.ticks():
        x = x_axis.pixel(tick)
        label = short_bytes(tick) if by_bytes else f"{tick:g}"
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
                     f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
    x_name = "bytes sent by a rank (logarithmic)" if by_bytes else "steps"
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_name}</text>')
    parts.append(f'<g clip-path="url(#{clip})">')
    for name, points in curves.items():
        path = "L".join(f"{x_axis.pixel(x):.1f} {y_axis.pixel(y):.1f}" for x, y in points)
        dash = " dense" if name in dense_names else ""
        parts.append(f'<g data-run="{name}"><path class="curve c-{name}{dash}" style="fill:none" d="M{path}">'
                     f'<title>{name}</title></path>')
        if y_key == "accuracy":
            parts += [f'<circle class="c-{name}" cx="{x_axis.pixel(x):.1f}" cy="{y_axis.pixel(y):.1f}" r="3">'
                      f'<title>{name}: {y:.2f} %</title></circle>' for x, y in points]
        parts.append("</g>")
    parts.append("</g></svg>")
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{''.join(parts)}</figure>"


def typeset(text):
    """Escaped, with the signs that a terminal may lack."""
    return re.sub(r"(?<=\d)x\b", "×", re.sub(r"^-(?=\d)", "−", html.escape(text)))


def table(header, rows, dense_names, keys=False):
    parts = ['<div class="scroll"><table><thead><tr>']
    parts += [f"<th>{html.escape(cell)}</th>" for cell in header]
    parts.append("</tr></thead><tbody>")
    for row in rows:
        name = row[0]
        dense = name in dense_names or name == "dense ring"
        parts.append('<tr class="dense">' if dense else "<tr>")
        mark = key_mark(name, dense) if keys else ""
        parts += [f"<td>{mark if i == 0 else ''}{typeset(cell)}</td>" for i, cell in enumerate(row)]
        parts.append("</tr>")
    parts.append("</tbody></table></div>")
    return "".join(parts)


RESULT_HEADER = ("run", "test accuracy, %", "against dense, points", "bytes a step", "less, compressed tensors",
                 "less, whole model", "encode, ms", "exchange, ms", "decode, ms", "whole step, ms")


def page(runs, dense_names, words, results, warmups, links, measured):
    """The whole page. `results`, `links` and measured[1] are (header, rows) of text cells; the rest is sentences."""
    first = runs[0]
    legend = "".join(
        f'<button type="button" aria-pressed="true" data-run="{run["name"]}">'
        f'{key_mark(run["name"], run["name"] in dense_names)}{run["name"]}</button>' for run in runs)
    plots = "".join(plot(runs, dense_names, caption, x, y) for caption, x, y in (
        ("Training loss against steps", "step", "loss"), ("Training loss against bytes", "bytes", "loss"),
        ("Test accuracy (%) against steps", "step", "accuracy"),
        ("Test accuracy (%) against bytes", "bytes", "accuracy")))
    paragraphs = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in words)
    warmup = "".join(f"<p>{typeset(sentence)}</p>" for sentence in warmups)
    between_hosts = table(*measured[1], dense_names) if measured[1][1] else ""
    configs = "".join(f"<h3>{run['name']}</h3><pre>{html.escape(str(run.get('config', '')))}</pre>" for run in runs)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Terse: Fashion-MNIST, {html.escape(first['network'])}, seed {first['seed']}</title>
<style>{STYLE}{colour_rules()}</style>
</head>
<body>
<h1>What compressed gradients saved, and what they cost</h1>
<p class="soft">Fashion-MNIST, network {html.escape(first['network'])} with {first['parameters']:,} parameters,
{first['steps']:,} steps of {first['ranks']} ranks with {first['batch_per_rank']} images each, seed {first['seed']}.
Every run has the same initial weights, the same data in the same order, and the same number of steps.</p>
<div class="words">{paragraphs}</div>

<h2>Results</h2>
{table(RESULT_HEADER, results[1], dense_names, keys=True)}
<p class="soft">Shaded: the dense runs. <em>topk</em>, <em>dgc</em> and <em>quantize</em> are held against
<em>sgd</em>, <em>onebit_adam</em> against <em>adam</em>. Bytes: all that a rank hands to its transport, headers
included; dense is a ring all-reduce. “Less”: how many times fewer bytes than dense, averaged over the run with its
warm-up. Times are per step and the mean of the ranks, which share this machine's cores.</p>
{warmup}

<h2>Curves</h2>
<div class="legend" role="group" aria-label="Runs shown">{legend}</div>
<div class="plots">{plots}</div>

<h2>On slower links</h2>
<p class="note"><strong>A calculation, not a measurement.</strong> Time on the wire = bytes of a step /
(0.957 × line rate); to it come the encoding and decoding times measured here. In brackets: how many times faster
than the dense ring's bytes at the same rate. Latency and the overlap with computation are left out.</p>
{table(links[0], links[1], dense_names)}

<h2>Between hosts</h2>
<p class="note">{html.escape(measured[0])}</p>
{between_hosts}

<details><summary>Configurations</summary>{configs}</details>
<script>{SCRIPT}</script>
</body>
</html>
"""
