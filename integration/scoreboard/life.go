package main

func lifeRows() []*row { return nil }
