"""The work of a process: from claims over all lanes to settlements in groups, at the pace that each lane allows."""
