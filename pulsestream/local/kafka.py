"""The real Kafka broker, started from its jars: KRaft, one node, SCRAM users and ACLs as in production.

Everything lives in one folder: passwords, configuration, log segments. `start` returns when the broker answers its
admin, with the services' rights in place. The broker listens on 127.0.0.1 only and ends with this process, however
that ends. A class-data archive, written when a broker first stops, halves the CPU of later starts.
"""

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from pulsestream.core.kafka import Admin, BrokerError
from pulsestream.core.settings import Settings
from pulsestream.local import process
from pulsestream.local.access import ADMIN, USERS, ensure_acls
from pulsestream.local.errors import HomeBusyError, StartError
from pulsestream.local.java import Runtime, cache_folder, find_runtime
from pulsestream.local.private import stored_secrets, write_private

__all__ = ["EmbeddedKafka", "ensure_acls"]

START_TIMEOUT: Final = 60.0
"""Seconds that the broker may take to answer on a busy machine (2.4 to 5 s on an idle one)."""
STOP_TIMEOUT: Final = 30.0
"""Seconds that a clean stop may take; the first one also writes the class-data archive."""

_CONTROLLER: Final = "controller"
_ATTEMPTS: Final = 3
_CLEAN_EXITS: Final = (0, 128 + signal.SIGTERM)
_JVM: Final = (
    *("-Xmx256m", "-Xms64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData"),
    *("-Xshare:auto", "-Xlog:cds=off"),
)
_LOGGING: Final = """\
<Configuration status="warn">
  <Appenders>
    <Console name="out"><PatternLayout pattern="%d{ISO8601} %-5p %c{1}: %m%n"/></Console>
  </Appenders>
  <Loggers>
    <Logger name="kafka.server.KafkaRaftServer" level="info"/>
    <Logger name="kafka.authorizer.logger" level="info"/>
    <Root level="warn"><AppenderRef ref="out"/></Root>
  </Loggers>
</Configuration>
"""


class EmbeddedKafka:
    """A broker in the folder `home`. Ports are kept from start to start; 0 means any free one."""

    def __init__(
        self, home: Path, *, port: int = 0, controller_port: int = 0, log: Path | None = None, cache: Path | None = None
    ) -> None:
        self.home = home.absolute()
        self.log = log or self.home / "kafka.log"
        self._cache = cache
        self._wanted = (port, controller_port)
        self._passwords: dict[str, str] = {}
        self._ports = (0, 0)
        self._has_answered = False
        self._runtime: Runtime | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The address for clients, host:port; known once `prepare` or `start` has run."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def pid(self) -> int | None:
        """The running broker's process id."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def password(self, user: str) -> str:
        """Return the generated password of a user (`admin` or a service's); raises KeyError for another."""
        return self._passwords[user]

    def settings(self, user: str = ADMIN) -> Settings:
        """Return settings with which a client of this broker logs in as `user`; all else from the environment."""
        password = SecretStr(self.password(user))
        return Settings(kafka_bootstrap=self.bootstrap, kafka_username=user, kafka_password=password)

    def start(self) -> None:
        """Start the broker and return when it answers; raises JavaMissingError, HomeBusyError or StartError."""
        for attempt in range(1, _ATTEMPTS + 1):
            self.prepare()
            self._process = process.spawn(self.command(), log=self.log)
            self.after_spawn(self._process.pid)
            try:
                self._wait()
            except StartError:
                self.kill()
                if attempt == _ATTEMPTS or not self._lost_its_port():
                    raise
            else:
                break
        self.ensure_access()

    def stop(self) -> None:
        """Stop the broker cleanly; killed when it takes longer than STOP_TIMEOUT."""
        if self._process is not None:
            code = process.stop(self._process, grace=STOP_TIMEOUT)
            self._process = None
            self.after_exit(code)

    def kill(self) -> None:
        """End the broker at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.after_exit(-signal.SIGKILL)

    def fetch(self) -> None:
        """Find Java and the jars, downloading what is missing; raises JavaMissingError or StartError."""
        self._cache = self._cache or cache_folder()
        self._runtime = self._runtime or find_runtime(self._cache)

    def prepare(self) -> None:
        """Put everything in place to run `command`: jars, passwords, ports, configuration, formatted storage."""
        self._refuse_a_second_one()
        self.home.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._scratch, ignore_errors=True)  # native libraries that a killed broker unpacked
        self._scratch.mkdir()
        self.fetch()
        self._passwords = stored_secrets(self.home / "passwords.json", (*USERS, _CONTROLLER))
        if not self._has_answered:  # afterwards clients know the address: a restart keeps it
            self._ports = self._choose_ports()
        (self.home / "log4j2.xml").write_text(_LOGGING, "utf-8")
        write_private(self._properties, _properties(self.home / "data", self._ports, self._passwords))
        if not (self.home / "data" / "meta.properties").exists():
            self._format()

    def command(self) -> list[str]:
        """Return the command line of the prepared broker."""
        archive = self._archive
        sharing = f"-XX:SharedArchiveFile={archive}" if archive.exists() else f"-XX:ArchiveClassesAtExit={self._dump}"
        return [*self._java(), *_JVM, sharing, "kafka.Kafka", str(self._properties)]

    def answers(self) -> bool:
        """Return whether the broker takes an admin's request now."""
        if process.port_is_free(self._ports[0]):
            return False
        try:
            Admin(self.settings()).topics()
        except BrokerError:
            return False
        self._has_answered = True
        return True

    def ensure_access(self) -> None:
        """Give the services their rights."""
        ensure_acls(self.settings())

    def after_spawn(self, pid: int) -> None:
        """Note the running broker's process, so that a second one on this folder is refused by name."""
        self._pid_file.write_text(str(pid), "utf-8")

    def after_exit(self, code: int) -> None:
        """Tidy up after the broker ended with `code`: the archive of a clean stop goes into the cache."""
        self._pid_file.unlink(missing_ok=True)
        if code in _CLEAN_EXITS and self._dump.exists() and not self._archive.exists():
            partial = self._archive.with_name(f"{self._archive.name}.{os.getpid()}")
            partial.write_bytes(self._dump.read_bytes())
            partial.replace(self._archive)
        self._dump.unlink(missing_ok=True)

    @property
    def _properties(self) -> Path:
        return self.home / "server.properties"

    @property
    def _pid_file(self) -> Path:
        return self.home / "kafka.pid"

    @property
    def _scratch(self) -> Path:
        return self.home / "scratch"

    @property
    def _dump(self) -> Path:
        return self.home / "classes.jsa"

    @property
    def _archive(self) -> Path:
        if self._runtime is None or self._cache is None:
            raise StartError("the broker was not prepared")
        return self._cache / f"kafka-{self._runtime.key}.jsa"

    def _java(self) -> list[str]:
        if self._runtime is None:
            raise StartError("the broker was not prepared")
        logging = f"-Dlog4j2.configurationFile={self.home / 'log4j2.xml'}"
        return [str(self._runtime.java), logging, f"-Djava.io.tmpdir={self._scratch}", "-cp", self._runtime.class_path]

    def _format(self) -> None:
        users = "\n".join(f'--add-scram "SCRAM-SHA-256=[name={u},password={self._passwords[u]}]"' for u in USERS)
        cluster = base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
        # In a file, because any user of the machine can read command lines.
        arguments = self.home / "format.arguments"
        write_private(
            arguments, f'kafka.tools.StorageTool format --cluster-id={cluster} -c "{self._properties}"\n{users}\n'
        )
        command = [*self._java(), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"@{arguments}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT, check=False)  # noqa: S603 - built above
        arguments.unlink()
        if done.returncode != 0:
            raise StartError(
                f"Kafka's storage in {self.home} cannot be formatted: {(done.stderr or done.stdout).strip()}"
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self.answers():
            if self.pid is None:
                raise StartError(f"the Kafka broker ended while starting:\n{process.last_lines(self.log)}")
            if time.monotonic() > deadline:
                raise StartError(f"the Kafka broker did not answer within {START_TIMEOUT:.0f} s: see {self.log}")
            time.sleep(0.05)

    def _choose_ports(self) -> tuple[int, int]:
        note = self.home / "ports.json"
        kept = json.loads(note.read_text("utf-8")) if note.exists() else [0, 0]
        client, controller = (_port(wanted, old) for wanted, old in zip(self._wanted, kept, strict=True))
        note.write_text(json.dumps([client, controller]), "utf-8")
        return client, controller

    def _lost_its_port(self) -> bool:
        return "Address already in use" in process.last_lines(self.log, 200)

    def _refuse_a_second_one(self) -> None:
        if not self._pid_file.exists():
            return
        pid = int(self._pid_file.read_text())
        if process.runs(pid, str(self._properties)):
            raise HomeBusyError(f"a broker already runs from {self.home} as process {pid}: stop it first")


def _port(wanted: int, kept: int) -> int:
    if wanted:
        return wanted
    return kept if kept and process.port_is_free(kept) else process.free_port()


def _properties(data: Path, ports: tuple[int, int], passwords: dict[str, str]) -> str:
    client, controller = ports
    # The short session is what a broker waits for after a crash, until its former life counts as over.
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    secret = passwords[_CONTROLLER]
    controller_login = f'username="{_CONTROLLER}" password="{secret}" user_{_CONTROLLER}="{secret}"'
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENT://127.0.0.1:{client}
listener.security.protocol.map=CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-256
sasl.mechanism.controller.protocol=PLAIN
listener.name.client.sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.client.scram-sha-256.sasl.jaas.config={scram} username="{ADMIN}" password="{passwords[ADMIN]}";
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config={plain} {controller_login};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{ADMIN};User:{_CONTROLLER}
allow.everyone.if.no.acl.found=false
auto.create.topics.enable=false
log.dirs={data}
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=10
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=4
"""
