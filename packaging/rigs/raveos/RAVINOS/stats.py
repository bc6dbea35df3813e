"""What RaveOS runs for statistics: it gives each device its hash rate in H/s and its temperature."""

import json
import urllib.request

import ravinos

UNITS = {"hs": 1, "khs": 1e3, "mhs": 1e6}
CPU = None  # the bus number of the CPU

stats = ravinos.get_stats()
url = "http://127.0.0.1:" + str(stats["api_port"]) + "/hive-stats"
with urllib.request.urlopen(url, timeout=3) as reply:
    found = json.load(reply)
rates = dict(zip(found["bus_numbers"], found["hs"]))  # noqa: B905 - the system's Python may be older than 3.10
temperatures = dict(zip(found["bus_numbers"], found["temp"]))  # noqa: B905
for device in stats["mpu"]:
    bus = CPU if device["type"] == "CPU" else device["pci_id"]
    device["hash_rate1"] = rates.get(bus, 0) * UNITS[found["hs_units"]]
    if temperatures.get(bus):
        device["temp"] = temperatures[bus]
accepted, rejected, invalid = found["ar"]
stats["shares"] = {"accepted": accepted, "invalid": invalid, "rejected": rejected}
ravinos.set_stats(stats)
