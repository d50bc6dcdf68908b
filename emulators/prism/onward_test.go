package mtime

import (
	"testing"
	"time"
)

// Times of a test have no part that only passes: Sub of them is what a set clock makes of it. So a step is told apart.
func TestOnward(t *testing.T) {
	day := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	o := &onward{now: func() time.Time { return day }}
	if got := o.time(); !got.Equal(day) {
		t.Fatalf("%v is not the time of day", got)
	}
	day = day.Add(time.Hour)
	if got := o.time(); !got.Equal(day) {
		t.Fatalf("%v does not follow a clock that was set forward", got)
	}
	before := o.time()
	o.read, day = day.Add(-time.Hour-time.Second), day.Add(-time.Hour) // set back an hour, and a second passed
	if got := o.time(); !got.Equal(before.Add(time.Second)) {
		t.Fatalf("%v does not go on from %v", got, before)
	}
	day = day.Add(time.Second)
	if got := o.time(); !got.Equal(before.Add(2 * time.Second)) {
		t.Fatalf("%v does not go on from %v", got, before)
	}
}

func TestAfter(t *testing.T) {
	if wait := After(Now() + 5000); wait < 4*time.Second || wait > 6*time.Second {
		t.Fatal(wait)
	}
}
