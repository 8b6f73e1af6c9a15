"""Links that tasks, callbacks, notifiers and operators give people to click on."""

from urllib.parse import urlsplit

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import BaseNotifier, dag, get_current_context, task
from airflow.sdk.configuration import conf
from parity_notes import note


def told(ti, what, link):
    # Apart: an address in one piece is taken for one that differs between any two runs.
    url = urlsplit(link.replace(ti.run_id, "RUN"))
    note(ti, f"{what} {url.scheme or '-'} {url.hostname or '-'} {url.port or '-'} {url.path}?{url.query}")


def tells(what):
    def callback(context):
        told(context["ti"], what, context["ti"].log_url)
        told(context["ti"], what, context["ti"].mark_success_url)

    return callback


class Mail(BaseNotifier):
    """What a mail's template makes of the links."""

    template_fields = ("log_link", "mark_link")

    def __init__(self):
        super().__init__()
        self.log_link, self.mark_link = "{{ ti.log_url }}", "{{ ti.mark_success_url }}"

    def notify(self, context):
        told(context["ti"], "mail", self.log_link)
        told(context["ti"], "mail", self.mark_link)


@dag(schedule=None)
def links():
    def sees():
        ti = get_current_context()["ti"]
        told(ti, "log", ti.log_url)
        told(ti, "mark", ti.mark_success_url)
        told(ti, "base", conf.get("api", "base_url", fallback=""))
        told(
            ti,
            "rendered",
            get_current_context()["task"].render_template("{{ ti.log_url }}", get_current_context()),
        )

    @task(on_success_callback=[tells("succeeded"), Mail()])
    def succeeds():
        sees()

    @task(
        on_failure_callback=[tells("failed"), Mail()],
        on_retry_callback=[tells("retried"), Mail()],
        retries=1,
        retry_delay=0,
    )
    def fails():
        sees()
        raise RuntimeError("the press is jammed")

    @task
    def mapped(number):
        sees()

    succeeds()
    fails()
    mapped.expand(number=[1, 2])
    TriggerDagRunOperator(task_id="triggers", trigger_dag_id="linked")


@dag(schedule=None)
def linked():
    @task
    def one():
        pass

    one()


links()
linked()
