#!/usr/bin/env python3
"""Measures the host beside its peers, in one run on this machine, and prints one table of ratios.

Usage: tests/bench/figures.py [--rounds N] [--seconds N] [--only NAME ...]

Needs what `just bench` builds and names: the release host, a native server, guests under target/bench; wrk, oha, nginx,
haproxy, wasmtime, redis-server and etcd on the PATH. Runs are interleaved, so that what else happens on the machine hits
all alike. Everything listens on loopback and is ended by its pid. Writes target/bench/figures.{md,json,svg}.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import report
from cases import CASES, Bench
from peers import CONNECTIONS, GUESTS


def main():
    names = [case.__name__ for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    args = parser.parse_args()
    machine, begun = report.machine(), report.processors()
    rows = []
    # On the disk of the project: what is durable has to be written to a real one.
    with tempfile.TemporaryDirectory(dir=GUESTS) as directory:
        bench = Bench(Path(directory), args.rounds, args.seconds)
        for case in CASES:
            if case.__name__ in args.only:
                for row in case(bench):
                    rows.append(row)
                    print(f"{row.case}, against {row.against}: {row.ratio:.2f} (goal {report.goal(row)})  {row.seen}",
                          file=sys.stderr, flush=True)
    settings = f"{CONNECTIONS} connections unless it says otherwise; medians of {args.rounds} runs of {args.seconds} s, " \
               f"least and most; {report.stolen(begun):.1f} % of the time was other machines'."
    table = report.markdown(machine, settings, rows)
    (GUESTS / "figures.md").write_text(table)
    (GUESTS / "figures.json").write_text(report.document(machine, settings, rows))
    (GUESTS / "figures.svg").write_text(report.picture(rows))
    print(table)


if __name__ == "__main__":
    main()
