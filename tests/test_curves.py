"""Curves are on disk soon, and a Ctrl-C at a bad moment does not keep a run from ending."""

import threading

from cxrbase.curves import curves


def test_a_notice_that_is_swallowed_does_not_keep_a_run_from_ending(tmp_path):
    logger = curves(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.experiment.flush()
    queue = logger.experiment.file_writer.event_writer._async_writer._byte_queue
    # What Ctrl-C leaves within Condition.notify: a waiter that was released and not removed, then taken again.
    dead = threading.Lock()
    dead.acquire()
    with queue.mutex:
        queue.not_empty._waiters.appendleft(dead)
    end = threading.Thread(target=logger.finalize, args=("failed",), daemon=True)
    end.start()
    end.join(60)  # the writer's own two minutes would be longer
    assert not end.is_alive()
