"""What people and dashboards may see of a running task."""
