"""Another application on the same broker, which has its messages given out again after a minute."""

import os

from celery import Celery

app = Celery("hasty", broker=os.environ["REDIS_URL"])
app.conf.update(broker_transport_options={"visibility_timeout": 60}, worker_hijack_root_logger=False)
