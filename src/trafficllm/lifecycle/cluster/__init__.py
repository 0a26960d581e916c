"""Captures by the thousand: work on a Ray cluster, one task a file (extra `ray`)"""
