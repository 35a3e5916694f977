"""`pqlite bench`: what pqlite does on a server, beside what is possible there.

arguments.py, options.py  what was asked for
session.py                one run from beginning to end: the server, the schemas, the scenarios, the report
scenarios/                what is measured, a module each, listed in catalogue.py; figures.py says what a measurement is
contenders/               pqlite, the bare floor and the peers, behind one protocol; place.py makes their schemas
child.py, roles/, wire.py the processes that do the work, so that processor time and memory are honest
run.py, children.py       the process that measures, by the counts in tally.py; flow.py looks at jobs that keep coming
server.py, usage.py       what was used; environment.py says on what it was measured
report.py, record.py, plot.py  the table, the JSON, the picture

Importing it imports nothing else: a measured process carries only what its own role needs.
"""
