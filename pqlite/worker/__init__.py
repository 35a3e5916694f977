"""The worker. Follow one job through it:

sentinel.py hears the wake-up -> claimer.py (ddl/functions/claim.sql) -> executor.py -> the handler -> an outcome
-> settler.py (ddl/functions/settle.sql).

worker.py is what an app enters, parts.py introduces the parts to each other, running.py starts and stops them.
"""

from pqlite.worker.worker import Worker

__all__ = ["Worker"]
