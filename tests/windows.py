"""Looks at the daemons through clients that are not Ferrule's: the packages `varlink` and `prometheus-client` of PyPI.

windows.py ipamd SOCKET      what introspection, List, Pools and Resting tell, as JSON
windows.py routed SOCKET     what introspection, Status, Nodes and Failures tell, as JSON
windows.py prometheus        reads a page of /metrics on standard input; samples as JSON
"""

import json
import sys


def ipamd(socket):
    import varlink

    with varlink.Client.new_with_address("unix:" + socket) as client:
        interfaces = client.get_interfaces()
        with client.open("io.ferrule.Ipam") as ipam:
            told = {
                "interfaces": list(interfaces),
                "leases": [lease for page in ipam.List(_more=True) for lease in page["leases"]],
                "pools": ipam.Pools()["pools"],
                "resting": [rest for page in ipam.Resting(_more=True) for rest in page["addresses"]],
            }
            try:
                ipam.Resting(pool="nope", _more=True).__next__()
            except varlink.VarlinkError as error:
                told["error"] = [error.error(), error.parameters()["pool"]]
    json.dump(told, sys.stdout)


def routed(socket):
    import varlink

    with varlink.Client.new_with_address("unix:" + socket) as client:
        interfaces = client.get_interfaces()
        with client.open("io.ferrule.Routed") as routed:
            told = {
                "interfaces": list(interfaces),
                "status": routed.Status(),
                "pages": [len(page["nodes"]) for page in routed.Nodes(_more=True)],
                "nodes": [node for page in routed.Nodes(_more=True) for node in page["nodes"]],
                "failures": [one for page in routed.Failures(_more=True) for one in page["failures"]],
            }
    json.dump(told, sys.stdout)


def through_prometheus():
    from prometheus_client.parser import text_string_to_metric_families

    families = {}
    for family in text_string_to_metric_families(sys.stdin.read()):
        samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
        families[family.name] = {"type": family.type, "help": family.documentation, "samples": samples}
    json.dump(families, sys.stdout)


match sys.argv[1:]:
    case ["ipamd", socket]:
        ipamd(socket)
    case ["routed", socket]:
        routed(socket)
    case ["prometheus"]:
        through_prometheus()
    case _:
        sys.exit(__doc__)
