"""The main job: start jobs, follow a log, know how they ended. Needs nothing but this package."""

from neuro_sync import JobFailed, Session

COUNT = "sh -c 'for i in 1 2 3; do echo step $i; sleep 0.2; done'"
BREAK = "sh -c 'echo loading; echo no such data set >&2; exit 3'"


def main() -> None:
    with Session.local() as session:
        hello = session.jobs.start(image="ubuntu", preset_name="cpu-small", command="echo hello")
        count = session.jobs.start(image="ubuntu", preset_name="cpu-small", command=COUNT)
        broken = session.jobs.start(image="ubuntu", preset_name="cpu-small", command=BREAK)

        for job in (hello, count):
            with session.jobs.logs(job) as lines:
                for line in lines:
                    print(line)
            ended = session.jobs.wait(job)
            print(f"{ended.id}: {ended.status}, exit code {ended.history.exit_code}\n")

        try:
            session.jobs.wait(broken, check=True)
        except JobFailed as failure:
            print(failure.job.reason, failure.exit_code)
            print("its last lines:", *failure.log_tail, sep="\n  ")


if __name__ == "__main__":
    main()
