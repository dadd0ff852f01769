"""`python -m views` writes the dashboards of Grafana and Kibana and the page of metrics; `--check` only compares."""

import sys

if sys.version_info < (3, 11):
    sys.stderr.write("dashboards are left as they are: what generates them needs Python 3.11\n")
    sys.exit(0)

from views.documents import main

sys.exit(main(sys.argv[1:]))
