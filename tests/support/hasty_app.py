"""Another application on the same broker, with a visibility timeout of one minute."""

import os

from celery import Celery

app = Celery("hasty", broker=os.environ["REDIS_URL"])
app.conf.update(broker_transport_options={"visibility_timeout": 60}, worker_hijack_root_logger=False)
