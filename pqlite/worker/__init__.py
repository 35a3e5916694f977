"""The worker. Follow one job through it:

sentinel.py hears the wake-up -> claimer.py (ddl/functions/claim.sql) -> executor.py -> the handler -> an outcome
-> settler.py (ddl/functions/settle.sql). worker.py is what an app enters, running.py introduces the parts.
"""

from pqlite.worker.worker import Worker

__all__ = ["Worker"]
