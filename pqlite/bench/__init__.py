"""`pqlite bench`: what pqlite does on a server, beside what is possible there.

arguments.py, options.py  what was asked for
session.py                one run from beginning to end: the server, the schemas, the scenarios, the report
scenarios/                what is measured, a module each; figures.py says what a measurement is
contenders/               pqlite, the bare floor and the peers, behind one protocol
child.py, roles/, wire.py the processes that do the work, so that processor time and memory are honest
run.py, children.py       the process that measures; server.py and usage.py say what was used
report.py, record.py, plot.py  the table, the JSON, the picture

Importing it imports nothing else: a measured process carries only what its own role needs.
"""
