"""Java and Kafka's jars: the machine's own Java if it is new enough, otherwise a fetched one; jars by jgo.

What was found once is noted in the cache folder, so that a later start touches no network.
"""

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pulsestream.local.errors import JavaMissingError, StartError
from pulsestream.local.private import write_private

KAFKA_VERSION: Final = "4.1.0"
MINIMUM: Final = 17
_KAFKA: Final = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
_LOGGING: Final = "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"
_VERSION: Final = re.compile(r'version "(?:1\.)?(\d+)')


@dataclass(frozen=True, slots=True)
class Runtime:
    """A Java executable and the class path of the broker."""

    java: Path
    class_path: str

    @property
    def key(self) -> str:
        """Short name of this combination; a class-data archive is valid for exactly one."""
        real = f"{self.java.resolve()}\n{self.java.resolve().stat().st_mtime_ns}\n{self.class_path}"
        return hashlib.sha256(real.encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Return where downloads' whereabouts and class-data archives are kept, made if needed."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "pulsestream"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_runtime(cache: Path) -> Runtime:
    """Return Java and the broker's class path; raises JavaMissingError or StartError."""
    return Runtime(find_java(cache), class_path(cache))


def find_java(cache: Path) -> Path:
    """Return a Java of at least version 17: JAVA_HOME's, PATH's, one fetched before, or one fetched now."""
    note = cache / "java"
    candidates = _candidates(note)
    versions = {java: java_version(java) for java in candidates}
    for java, version in versions.items():
        if version >= MINIMUM:
            return java
    found = ", ".join(f"{java} is version {version or 'unknown'}" for java, version in versions.items())
    java = _fetch_java(found or "none was found in JAVA_HOME and PATH")
    write_private(note, str(java))
    return java


def java_version(java: Path) -> int:
    """Return the major version that an executable reports; 0 when it is no working Java."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - chosen by the user's own environment
    except OSError:
        return 0
    match = _VERSION.search(said.stderr + said.stdout)
    return int(match[1]) if match else 0


def class_path(cache: Path) -> str:
    """Return the broker's class path, resolved from Maven Central at the first call; raises StartError."""
    note = cache / f"kafka-{KAFKA_VERSION}.classpath"
    if note.exists():
        known = note.read_text("utf-8")
        if all(Path(jar).exists() for jar in known.split(os.pathsep)):
            return known
    jars = _resolve()
    if not any(jar.name == f"kafka-clients-{KAFKA_VERSION}.jar" for jar in jars):
        raise StartError(f"Maven resolved another kafka-clients than {KAFKA_VERSION}: empty jgo's cache and try again")
    resolved = os.pathsep.join(str(jar) for jar in jars)
    write_private(note, resolved)
    return resolved


def _candidates(note: Path) -> list[Path]:
    home = os.environ.get("JAVA_HOME")
    places = [Path(home) / "bin" / "java"] if home else []
    on_path = shutil.which("java")
    places += [Path(on_path)] if on_path else []
    places += [Path(note.read_text("utf-8"))] if note.exists() else []
    return [place for place in places if place.exists()]


def _fetch_java(found: str) -> Path:
    import cjdk  # noqa: PLC0415 - half a second of every start, needed once

    try:
        return Path(cjdk.java_home(vendor="zulu", version=str(MINIMUM))) / "bin" / "java"
    except Exception as error:
        raise JavaMissingError(
            f"Kafka needs Java {MINIMUM} or later: {found}, and fetching one failed ({error}). Install it (on Debian: "
            f"apt-get install openjdk-{MINIMUM}-jre-headless), or set JAVA_HOME, or name a running broker in "
            "PULSESTREAM_KAFKA_BOOTSTRAP"
        ) from error


def _resolve() -> list[Path]:
    import jgo  # noqa: PLC0415 - as above

    # Two resolutions: together with anything else jgo picks a kafka-clients of another version.
    try:
        jars = list(jgo.build(_KAFKA).all_jars)
        names = {jar.name for jar in jars}
        return jars + [jar for jar in jgo.build(_LOGGING).all_jars if jar.name not in names]
    except Exception as error:
        raise StartError(
            f"Kafka's jars cannot be fetched from Maven Central ({error}): check the network, or name a running "
            "broker in PULSESTREAM_KAFKA_BOOTSTRAP"
        ) from error
