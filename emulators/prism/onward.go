// Time of day that never goes back: build.py puts this file into Beam's package mtime, where Prism has its time from.
package mtime

import (
	"sync"
	"time"
)

// onward gives the time of day; where somebody sets it back, it goes on from where it was.
type onward struct {
	now func() time.Time // with the time that only passes, as time.Now gives it

	mu    sync.Mutex
	read  time.Time // the last answer of now
	shown time.Time // and what was made of it
}

var clock = &onward{now: time.Now}

func (o *onward) time() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	read := o.now()
	day := read.Round(0)
	if !o.read.IsZero() {
		if due := o.shown.Add(read.Sub(o.read)); due.After(day) {
			day = due
		}
	}
	o.read, o.shown = read, day
	return day
}

// After is how long it takes until a time.
func After(t Time) time.Duration {
	return time.Duration(t-Now()) * time.Millisecond
}
