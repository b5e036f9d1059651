"""What was measured, as a Markdown table, as JSON and as a picture."""

import json
import math
import os
import platform
import statistics
import subprocess
from xml.sax.saxutils import escape


def spread(values):
    digits = 0 if min(values) >= 100 else 1
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def goal(row):
    return f"{'≤' if row.less_is_better else '≥'} {row.goal}"


def line(row):
    met = "yes" if row.met else f"{row.failed} failed" if row.failed else "no"
    return f"| {row.case} | {row.against} | {spread(row.ours)} | {spread(row.theirs)} | {row.unit} | " \
           f"**{row.ratio:.2f}** | {goal(row)} | {met} |"


HEAD = "| case | against | ours | theirs | unit | ratio | goal | met |\n|---|---|---|---|---|---|---|---|"


def version(*command):
    ran = subprocess.run(command, capture_output=True, text=True)
    return (ran.stdout + ran.stderr).strip().splitlines()[0]


def processors():
    """Time that the processors have had until now, and what of it went to other machines (steal), in clock ticks."""
    with open("/proc/stat") as stat:
        ticks = [int(number) for number in stat.readline().split()[1:9]]
    return sum(ticks), ticks[7]


def stolen(before):
    """How much of the processors' time went to other machines since then, in percent: what makes runs differ."""
    (all_then, stolen_then), (all_now, stolen_now) = before, processors()
    return 100 * (stolen_now - stolen_then) / max(all_now - all_then, 1)


def machine():
    """Where it was measured, and what with."""
    model = next((text.partition(":")[2].strip() for text in open("/proc/cpuinfo") if text.startswith("model name")), "")
    versions = [version("wasmtime", "--version"), version("nginx", "-v").replace("nginx version: ", ""),
                version("haproxy", "-v").split(" ", 3)[2], version("redis-server", "--version").split(" sha")[0],
                version("etcd", "--version"), version("oha", "--version"), version("wrk", "-v").split(" [")[0]]
    return {"cores": os.cpu_count(), "model": model, "kernel": platform.release(), "versions": versions}


def markdown(machine, settings, rows):
    return "\n".join([
        f"{machine['cores']} cores ({machine['model']}), shared with the load generator; Linux {machine['kernel']}; "
        f"{', '.join(machine['versions'])}. {settings}", "", HEAD, *map(line, rows), ""])


def document(machine, settings, rows):
    return json.dumps({"machine": machine, "settings": settings, "rows": [
        {**vars(row), "ratio": row.ratio, "met": row.met} for row in rows]}, indent=2)


WIDTH, LEFT, ROW = 860, 430, 22


def picture(rows):
    """Bars: how far each ratio is from 1, to the right where the host is ahead, and a mark at the goal. Logarithmic."""
    ahead = lambda row, ratio: math.log2(1 / ratio if row.less_is_better else ratio)
    most = max(1.0, *(abs(ahead(row, value)) for row in rows for value in (row.ratio, row.goal)))
    x = lambda value: LEFT + (WIDTH - LEFT - 60) * (value + most) / (2 * most)
    height = ROW * (len(rows) + 2)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
             f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="{height - ROW}" stroke="#555"/>']
    for number, row in enumerate(rows):
        y = ROW * number + 6
        end = x(ahead(row, row.ratio))
        colour = "#2a7d4f" if row.met else "#b5651d"
        parts += [
            f'<text x="{LEFT - 130}" y="{y + 12}" text-anchor="end">{escape(row.case.replace("`", ""))}</text>',
            f'<text x="{LEFT - 122}" y="{y + 12}" fill="#555">{escape(row.against)}</text>',
            f'<rect x="{min(x(0), end):.1f}" y="{y + 2}" width="{abs(end - x(0)):.1f}" height="13" fill="{colour}"/>',
            f'<line x1="{x(ahead(row, row.goal)):.1f}" x2="{x(ahead(row, row.goal)):.1f}" y1="{y}" y2="{y + 17}" '
            'stroke="#000" stroke-width="2"/>',
            f'<text x="{WIDTH - 52}" y="{y + 12}">{row.ratio:.2f}x</text>']
    parts.append(f'<text x="{LEFT - 122}" y="{height - 8}" fill="#555">right of the line: the host is ahead; '
                 'black marks: goals; logarithmic</text></svg>')
    return "\n".join(parts) + "\n"
