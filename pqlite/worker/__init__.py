"""The worker. The way of one job through it:

sentinel.py receives the notification -> claimer.py (ddl/functions/claim.sql) -> executor.py -> the handler
-> an outcome -> settler.py (ddl/functions/settle.sql).

worker.py has the public class, parts.py builds and connects the parts, running.py starts and stops them.
"""

from pqlite.worker.worker import Worker

__all__ = ["Worker"]
